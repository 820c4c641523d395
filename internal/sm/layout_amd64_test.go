package sm

import (
	"reflect"
	"strings"
	"testing"
)

func TestLayoutIsWhatTheKernelsWereWrittenFor(t *testing.T) {
	types := map[string]reflect.Type{}
	for _, v := range []any{group{}, laneCall{}, wideKey{}, wideCall{}} {
		types[reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	for name, want := range layout {
		of, field, isField := strings.Cut(name, ".")
		typ, ok := types[of]
		if !ok {
			t.Fatalf("no type %s", of)
		}
		got := typ.Size()
		if isField {
			f, ok := typ.FieldByName(field)
			if !ok {
				t.Errorf("no field %s", name)
			}
			got = f.Offset
		}
		if got != want {
			t.Errorf("%s is at %d; the kernels think %d", name, got, want)
		}
	}
}
