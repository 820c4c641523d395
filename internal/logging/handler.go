package logging

import (
	"context"
	"log/slog"
	"slices"
)

// handler is immutable; WithAttrs and WithGroup make new ones.
type handler struct {
	log   *Log
	inner slog.Handler

	// What the attributes of With say, for the ring.
	subsystem, connection string
	attrs                 []Attr
	group                 string // prefix of keys, with a dot at its end
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.log.levels.Load().of(h.subsystem)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	rec := Record{
		Time: r.Time, Level: r.Level, Message: r.Message,
		Subsystem: h.subsystem, Connection: h.connection, Attrs: slices.Clip(h.attrs),
	}
	r.Attrs(func(a slog.Attr) bool {
		if h.group == "" && a.Key == KeyConnection {
			rec.Connection = a.Value.Resolve().String()
			return true
		}
		rec.Attrs = flatten(rec.Attrs, h.group, a)
		return true
	})
	h.log.ring.Add(rec)
	return h.inner.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.inner = h.inner.WithAttrs(attrs)
	next.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		switch {
		case h.group == "" && a.Key == KeySubsystem:
			next.subsystem = a.Value.Resolve().String()
		case h.group == "" && a.Key == KeyConnection:
			next.connection = a.Value.Resolve().String()
		default:
			next.attrs = flatten(next.attrs, h.group, a)
		}
	}
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.inner = h.inner.WithGroup(name)
	next.group = h.group + name + "."
	return &next
}

// flatten appends a, or the members of a group, under the prefix.
func flatten(to []Attr, prefix string, a slog.Attr) []Attr {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		if a.Equal(slog.Attr{}) {
			return to
		}
		return append(to, Attr{Key: prefix + a.Key, Value: v.String()})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, member := range v.Group() {
		to = flatten(to, prefix, member)
	}
	return to
}
