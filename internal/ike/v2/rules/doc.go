// Package rules holds the judgments of IKEv2 that need no state: which payloads
// a message has, which proposal is chosen, how traffic selectors are narrowed,
// and whether there is a NAT on the way.
package rules
