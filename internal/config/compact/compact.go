// Package compact copies what has just been read into memory of its own, so that
// it takes as little as it can.
package compact

import (
	"reflect"
	"strings"

	"caponier/internal/secret"
)

// Of returns a copy of a configuration that has just been read, in memory of its
// own: what reading has left behind lies all around the original, and a few octets
// that live keep a whole span of the heap. Lists and texts that read the same are
// one in the copy, which is therefore not to be changed. Of wipes the keys of the
// original, which is not to be used any more.
func Of[T any](original *T) *T {
	x := compactor{
		pointers: make(map[any]reflect.Value), lists: make(map[backing]reflect.Value), alike: make(map[content]reflect.Value),
		texts: make(map[string]string), keys: make(map[*byte]secret.Key),
	}
	out := new(T)
	x.copy(reflect.ValueOf(out).Elem(), reflect.ValueOf(original).Elem())
	return out
}

// compactor knows the copies by the originals: what was shared stays shared, and
// what reads the same becomes so.
type compactor struct {
	pointers map[any]reflect.Value
	lists    map[backing]reflect.Value
	alike    map[content]reflect.Value
	texts    map[string]string
	block    strings.Builder      // of texts: octets among others of their size would leave holes
	keys     map[*byte]secret.Key // by the first octet
}

// blockSize is that of a block of texts, in octets. One text that is still in use
// keeps all of a block.
const blockSize = 4096

// backing names a slice.
type backing struct {
	first uintptr
	n     int
	of    reflect.Type
}

func backingOf(list reflect.Value) backing {
	return backing{list.Pointer(), list.Len(), list.Type()}
}

// content is what lists have in common that read the same.
type content struct {
	of       reflect.Type
	elements any // an array
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
		if !src.IsNil() {
			dst.Set(x.list(src))
		}
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
		dst.SetString(x.text(src.String()))
	default:
	}
}

// list returns the copy of a slice: the one of this very slice, or of one that
// reads the same, or else a new one.
func (x *compactor) list(src reflect.Value) reflect.Value {
	name := backingOf(src)
	if done, ok := x.lists[name]; ok {
		return done
	}
	done := reflect.MakeSlice(src.Type(), src.Len(), src.Len())
	for i := range src.Len() {
		x.copy(done.Index(i), src.Index(i))
	}
	if c, ok := contentOf(done); ok {
		if first, ok := x.alike[c]; ok {
			done = first
		}
		x.alike[c] = done
	}
	x.lists[name] = done
	return done
}

// contentOf returns the content of a list whose elements are copies already: where
// they are lists in turn, these are the same if they read the same. It returns
// false where lists cannot read the same, or cannot be compared.
func contentOf(list reflect.Value) (content, bool) {
	elem := list.Type().Elem()
	switch {
	case elem.Kind() == reflect.Slice:
		names := reflect.New(reflect.ArrayOf(list.Len(), reflect.TypeFor[backing]())).Elem()
		for i := range list.Len() {
			names.Index(i).Set(reflect.ValueOf(backingOf(list.Index(i))))
		}
		return content{list.Type(), names.Interface()}, true
	case elem.Kind() == reflect.Pointer || !elem.Comparable():
		return content{}, false
	default:
		array := list.Convert(reflect.ArrayOf(list.Len(), elem))
		return content{list.Type(), array.Interface()}, array.Comparable()
	}
}

func (x *compactor) text(original string) string {
	if done, ok := x.texts[original]; ok {
		return done
	}
	start := x.block.Len()
	if start+len(original) > x.block.Cap() {
		x.block = strings.Builder{}
		x.block.Grow(max(blockSize, len(original)))
		start = 0
	}
	x.block.WriteString(original)
	done := x.block.String()[start:]
	x.texts[done] = done
	return done
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
