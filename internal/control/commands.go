package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"caponier/internal/logging"
)

// defaultWait is how long an order is waited for: longer than a peer that loses
// a few messages needs, shorter than the patience of an operator.
const defaultWait = "1m"

// Groups are the words that commands share, with their one-line help.
func Groups() map[string]string {
	return map[string]string{
		"sa":      "Security associations of the data plane",
		"policy":  "Security policies of the data plane",
		"gateway": "The gateway's switch",
	}
}

// Commands returns the registry, in the order of the help.
func Commands() []Command {
	conn := Param{Name: "connection", Arg: "CONN", Complete: CompleteConnection, Help: "name of a connection"}
	return slices.Concat([]Command{
		one(Command{
			Name: "status", Reads: true, Params: []Param{conn},
			Short: "Show connections, their SAs and their health",
			Long: "Shows the gateway and a line for each connection, or everything about one.\n\n" +
				"The state tells apart what is configured, negotiating, established (SAs are\n" +
				"installed) and passing (packets went both ways within the last minute), and\n" +
				"failed, with the code and the cause of the last failure.",
		}, status),
		order("connect", "Set up a connection or a tunnel", Gateway.Connect),
		order("disconnect", "Delete the SAs of a connection or a tunnel", Gateway.Disconnect),
		order("rekey", "Replace the keys of a connection or a tunnel now", Gateway.Rekey),
		one(Command{
			Name:  "reload",
			Short: "Read the configuration again and apply what changed",
			Long: "Reads the configuration again and applies the difference. Connections that did\n" +
				"not change are not touched. A configuration with an error changes nothing.",
			Params: []Param{{Name: "dry-run", Type: Bool, Help: "only say what would change"}},
		}, func(ctx context.Context, g Gateway, r Request) (ReloadReport, error) {
			report, err := g.Reload(ctx, r.Bool("dry-run"))
			report.Changes = present(report.Changes)
			return report, err
		}),
		one(Command{
			Name: "sa list", Reads: true, Params: saFilterParams(), check: checkFilter,
			Short: "List the security associations",
			Long: "Lists the SAs of the data plane, those that IKE has made and those that are keyed\n" +
				"by hand: all, or those that hold TEXT in their line and pass every filter.",
		}, func(ctx context.Context, g Gateway, r Request) (SAList, error) {
			match, err := saFilter(r)
			if err != nil {
				return SAList{}, err
			}
			sas, err := listSAs(ctx, g, match)
			return SAList{Time: time.Now(), SAs: present(sas)}, err
		}),
		one(Command{
			Name: "policy list", Reads: true, Params: policyFilterParams(), check: checkPolicyFilter,
			Short: "List the security policies in order of decision",
			Long: "Lists the policies of the data plane: all, or those that hold TEXT in their line\n" +
				"and pass every filter.",
		}, func(ctx context.Context, g Gateway, r Request) (PolicyList, error) {
			match, err := policyFilter(r)
			if err != nil {
				return PolicyList{}, err
			}
			policies, err := g.Policies(ctx)
			policies = slices.DeleteFunc(policies, func(p Policy) bool { return !match(&p) })
			return PolicyList{Policies: present(policies)}, err
		}),
		one(Command{
			Name: "why", Reads: true, Params: []Param{conn},
			Short: "Explain what failed, and what would cure it",
			Long: "Explains failed negotiations, and tunnels through which nothing comes back: the\n" +
				"code, the cause, what each end offered, the nearest match, and the smallest\n" +
				"edits that would cure it, of which each alone would do. Without CONN, the last\n" +
				"failure of each connection and tunnel, and of peers that no connection allows;\n" +
				"with CONN, all that are kept of it. They stay when a later attempt succeeds.",
		}, why),
		one(Command{
			Name: "trace", Reads: true,
			Params: []Param{
				{Name: "source", Arg: "SRC", Required: true, Help: "address the packet comes from"},
				{Name: "destination", Arg: "DST", Required: true, Help: "address it goes to"},
				{Name: "protocol", Arg: "PROTO", Help: "tcp, udp, icmp or a number"},
				{Name: "port", Arg: "PORT", Help: "port it goes to"},
			},
			Short: "Show what would become of a packet",
			Long: "Walks a packet through the system's routing, the policies, the SAs and the MTU\n" +
				"as they are now, and names the counter that would count it. Nothing is sent.\n" +
				"Without PROTO it is an ICMP echo request; without PORT, a TCP or UDP packet\n" +
				"whose ports are not known.",
		}, trace),
		many(Command{
			Name: "capture", Streams: true,
			Short: "Write the packets of a connection to a file",
			Long: "Shows the packets of a connection, or of all, as they pass: inner ones in clear,\n" +
				"outer ones as ESP and IKE, until it is interrupted. Packets are left out, and\n" +
				"counted, where the reader is too slow: none waits for it. With the kernel's data\n" +
				"plane, inner packets are not shown.\n\n" +
				"With --keys the keys come too, in the form of Wireshark's tables, also those of\n" +
				"SAs that are set up meanwhile. Whoever has them reads the tunnels. The\n" +
				"configuration has to allow it (gateway.capture-keys: allow).",
			Params: []Param{
				conn,
				{Name: "count", Letter: "n", Type: Number, Help: "end after so many packets"},
				{Name: "duration", Letter: "d", Type: Duration, Help: "end after this time"},
				{Name: "keys", Type: Bool, Help: "the keys too, to decrypt the outer packets"},
			},
		}, capturePackets),
		many(Command{
			Name: "log", Reads: true, Streams: true,
			Short: "Show the last log records",
			Long:  "Shows the log records that the daemon keeps in memory, the oldest first.",
			Params: []Param{
				conn,
				{Name: "follow", Letter: "f", Type: Bool, Help: "go on with new records"},
				{Name: "subsystem", Help: "only records of this subsystem"},
				{
					Name: "level", Default: "debug", Help: "lowest level: debug, info, warn or error",
					Complete: CompleteWord, Words: []string{"debug", "info", "warn", "error"},
				},
			},
		}, showLog),
		one(Command{
			Name: "version", Reads: true,
			Short: "Show the version",
		}, func(context.Context, Gateway, Request) (Build, error) { return LocalBuild(), nil }),
	}, append(manualCommands(), destroyKeys()))
}

func status(ctx context.Context, g Gateway, r Request) (Status, error) {
	s, err := g.Status(ctx, r.String("connection"))
	s.Detail = r.String("connection")
	s.Connections = present(s.Connections)
	return s, err
}

func why(ctx context.Context, g Gateway, r Request) (Why, error) {
	y, err := g.Why(ctx, r.String("connection"))
	y.Detail = r.String("connection")
	y.Findings = present(y.Findings)
	return y, err
}

func trace(ctx context.Context, g Gateway, r Request) (Trace, error) {
	flow, err := ParseFlow(r.String("source"), r.String("destination"), r.String("protocol"), r.String("port"))
	if err != nil {
		return Trace{}, Errorf(CodeUsage, "%v", err)
	}
	return g.Trace(ctx, flow)
}

// present makes an empty list of none, which is [] in JSON and not null.
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func order(name, short string, act func(Gateway, context.Context, Target, bool, func(Progress)) error) Command {
	return many(Command{
		Name: name, Streams: true, Short: short,
		Params: []Param{
			{
				Name: "target", Arg: "CONN[/TUNNEL]", Required: true, Complete: CompleteTarget,
				Help: "name of a connection or of one of its tunnels",
			},
			{Name: "no-wait", Type: Bool, Help: "return as soon as the daemon has taken the order"},
			{Name: "timeout", Type: Duration, Default: defaultWait, Help: "how long to wait for the outcome"},
		},
	}, func(ctx context.Context, g Gateway, r Request, emit func(Progress) error) error {
		target, err := ParseTarget(r.String("target"))
		if err != nil {
			return Errorf(CodeUsage, "%v", err)
		}
		ctx, cancel := context.WithTimeout(ctx, r.Duration("timeout"))
		defer cancel()
		err = act(g, ctx, target, !r.Bool("no-wait"), func(p Progress) {
			if emit(p) != nil {
				cancel() // nobody listens any more
			}
		})
		if errors.Is(err, context.DeadlineExceeded) {
			return &Error{
				Code:    CodeTimeout,
				Message: fmt.Sprintf("%s %s is still under way after %s", name, target, r.Duration("timeout")),
				Cure:    fmt.Sprintf("caponier status %s and caponier log %[1]s show how far it came", target.Connection),
			}
		}
		return err
	})
}

func showLog(ctx context.Context, g Gateway, r Request, emit func(LogRecord) error) error {
	f := logging.Filter{Connection: r.String("connection"), Subsystem: r.String("subsystem")}
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.String("level"))); err != nil {
		return Errorf(CodeUsage, "%v", err)
	}
	f.Level = level
	return g.Log(ctx, f, r.Bool("follow"), func(rec logging.Record) error { return emit(LogRecord{rec}) })
}

// SAList is the result of "sa list".
type SAList struct {
	Time time.Time `json:"time"`
	SAs  []SA      `json:"sas"`
}

// PolicyList is the result of "policy list".
type PolicyList struct {
	Policies []Policy `json:"policies"`
}

// LogRecord is a result of "log".
type LogRecord struct{ logging.Record }
