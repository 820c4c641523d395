package control

import (
	"context"
	"os"
	"strings"
	"testing"
)

func TestCapture(t *testing.T) {
	g := &fakeGateway{}
	cmd, ok := Find("capture")
	if !ok {
		t.Fatal("there is no such command")
	}
	capture := func(who caller, params map[string]any) (packets, keys int, err error) {
		t.Helper()
		r, err := cmd.Request(params)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if who.pid != 0 {
			ctx = context.WithValue(ctx, callerKey{}, who)
		}
		err = cmd.Run(ctx, g, r, func(r Result) error {
			c := r.(Captured)
			packets, keys = packets+len(c.Packets), keys+len(c.Keys)
			if text := render(t, c, Style{}); strings.Contains(text, "key") {
				t.Errorf("the text shows keys: %s", text)
			}
			return nil
		})
		return packets, keys, err
	}
	owner, stranger := caller{os.Geteuid(), 1}, caller{12345, 1}
	for _, tt := range []struct {
		who           caller
		params        map[string]any
		packets, keys int
		code          string
	}{
		{owner, nil, 2, 0, ""},
		{owner, map[string]any{"count": float64(1)}, 1, 0, ""},
		{owner, map[string]any{"count": "5", "connection": "agw"}, 2, 0, ""},
		{owner, map[string]any{"connection": "nobody"}, 0, 0, CodeUnknownConnection},
		{owner, map[string]any{"keys": true}, 2, 1, ""},
		{stranger, map[string]any{"keys": true}, 0, 0, CodeForbidden},
		{caller{}, map[string]any{"keys": true}, 0, 0, CodeForbidden}, // not through the socket
		{stranger, nil, 2, 0, ""},
	} {
		packets, keys, err := capture(tt.who, tt.params)
		code := ""
		if err != nil {
			code = AsError(err).Code
		}
		if packets != tt.packets || keys != tt.keys || code != tt.code {
			t.Errorf("%v with %v: %d packets, %d keys, %q", tt.who, tt.params, packets, keys, code)
		}
	}
	for _, bad := range []any{"-1", "x", 1.5, true} {
		if _, err := cmd.Request(map[string]any{"count": bad}); err == nil {
			t.Errorf("%v is a count", bad)
		}
	}
}
