// Package v2 is the IKEv2 machine (RFC 7296): a pure function of its state, the
// time and an event. It has no socket, clock, goroutine or logger; the daemon
// in package ike owns those, feeds it events and carries out its actions.
//
// A Machine is one IKE SA with its CHILD SAs. It is not safe for concurrent
// use: one goroutine owns it.
package v2

import (
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
)

// The configuration of a connection: see package conf.
type (
	Connection    = conf.Connection
	Party         = conf.Party
	AuthKind      = conf.AuthKind
	SHA1Use       = conf.SHA1Use
	Child         = conf.Child
	Encapsulation = conf.Encapsulation
	Uniqueness    = conf.Uniqueness
	Retransmit    = conf.Retransmit
	Identity      = rules.Identity
)

// The ways to authenticate, the uses of SHA-1, the policies of uniqueness, and the settings of
// encapsulation.
const (
	AuthCert = conf.AuthCert
	AuthPSK  = conf.AuthPSK

	SHA1Auto   = conf.SHA1Auto
	SHA1Never  = conf.SHA1Never
	SHA1Always = conf.SHA1Always

	UniqueReplace = conf.UniqueReplace
	UniqueKeep    = conf.UniqueKeep
	UniqueNever   = conf.UniqueNever

	EncapAuto   = conf.EncapAuto
	EncapAlways = conf.EncapAlways
	EncapNever  = conf.EncapNever
	EncapAsk    = conf.EncapAsk
)

// What the daemon and a Machine say to each other: see package step.
type (
	Env = step.Env

	Event         = step.Event
	Initiate      = step.Initiate
	Received      = step.Received
	Timeout       = step.Timeout
	Signed        = step.Signed
	Verified      = step.Verified
	InstallFailed = step.InstallFailed
	CreateChild   = step.CreateChild
	RekeyChild    = step.RekeyChild
	RekeyIKE      = step.RekeyIKE
	DeleteChild   = step.DeleteChild
	Close         = step.Close
	Reconfigure   = step.Reconfigure
	CheckLiveness = step.CheckLiveness
	Destroy       = step.Destroy
	Expired       = step.Expired
	PeerMoved     = step.PeerMoved
	Used          = step.Used

	Action        = step.Action
	Send          = step.Send
	SendKeepAlive = step.SendKeepAlive
	Sign          = step.Sign
	Verify        = step.Verify
	InstallSA     = step.InstallSA
	MoveSA        = step.MoveSA
	RemoveSA      = step.RemoveSA
	Succeed       = step.Succeed
	Report        = step.Report
	Done          = step.Done

	Notice      = step.Notice
	NoticeKind  = step.NoticeKind
	Status      = step.Status
	ChildStatus = step.ChildStatus
)

// The kinds of notices.
const (
	IKEUp          = step.IKEUp
	IKERekeyed     = step.IKERekeyed
	IKEDown        = step.IKEDown
	IKEFailed      = step.IKEFailed
	ChildUp        = step.ChildUp
	ChildRekeyed   = step.ChildRekeyed
	ChildDown      = step.ChildDown
	ChildFailed    = step.ChildFailed
	PeerDropped    = step.PeerDropped
	IKERekeyFailed = step.IKERekeyFailed
)
