package config

import (
	"reflect"
	"strings"

	"caponier/internal/secret"
)

// compact returns a copy of a configuration that has just been read, in memory of
// its own: what reading has left behind lies all around the original, and a few
// octets that live keep a whole span of the heap. It wipes the keys of the
// original, which is not to be used any more.
func compact(c *Config) *Config {
	x := compactor{
		pointers: make(map[any]reflect.Value), lists: make(map[backing]reflect.Value),
		texts: make(map[string]string), keys: make(map[*byte]secret.Key),
	}
	out := new(Config)
	x.copy(reflect.ValueOf(out).Elem(), reflect.ValueOf(c).Elem())
	return out
}

// compactor knows the copies by the originals: what was shared stays shared, and
// what reads the same becomes so.
type compactor struct {
	pointers map[any]reflect.Value
	lists    map[backing]reflect.Value
	texts    map[string]string
	keys     map[*byte]secret.Key // by the first octet
}

// backing names a slice.
type backing struct {
	first uintptr
	n     int
	of    reflect.Type
}

// copy copies src to dst, with all that exported fields lead to. Values of other
// packages that have none, such as addresses, are copied as they are.
func (x *compactor) copy(dst, src reflect.Value) {
	dst.Set(src)
	switch src.Kind() {
	case reflect.Pointer:
		if src.IsNil() {
			return
		}
		done, ok := x.pointers[src.Interface()]
		if !ok {
			done = reflect.New(src.Type().Elem())
			x.pointers[src.Interface()] = done
			x.copy(done.Elem(), src.Elem())
		}
		dst.Set(done)
	case reflect.Slice:
		if src.IsNil() {
			return
		}
		name := backing{src.Pointer(), src.Len(), src.Type()}
		done, ok := x.lists[name]
		if !ok {
			done = reflect.MakeSlice(src.Type(), src.Len(), src.Len())
			x.lists[name] = done
			for i := range src.Len() {
				x.copy(done.Index(i), src.Index(i))
			}
		}
		dst.Set(done)
	case reflect.Map:
		if src.IsNil() {
			return
		}
		dst.Set(reflect.MakeMapWithSize(src.Type(), src.Len()))
		for i := src.MapRange(); i.Next(); {
			key, value := reflect.New(src.Type().Key()).Elem(), reflect.New(src.Type().Elem()).Elem()
			x.copy(key, i.Key())
			x.copy(value, i.Value())
			dst.SetMapIndex(key, value)
		}
	case reflect.Struct:
		if key, ok := reflect.TypeAssert[secret.Key](src); ok {
			dst.Set(reflect.ValueOf(x.key(key)))
			return
		}
		for i := range src.NumField() {
			if src.Type().Field(i).IsExported() {
				x.copy(dst.Field(i), src.Field(i))
			}
		}
	case reflect.String:
		text, ok := x.texts[src.String()]
		if !ok {
			text = strings.Clone(src.String())
			x.texts[text] = text
		}
		dst.SetString(text)
	default:
	}
}

func (x *compactor) key(k secret.Key) secret.Key {
	if k.IsZero() {
		return k
	}
	first := &k.Bytes()[0]
	if _, ok := x.keys[first]; !ok {
		x.keys[first] = k.Clone()
		k.Wipe()
	}
	return x.keys[first]
}
