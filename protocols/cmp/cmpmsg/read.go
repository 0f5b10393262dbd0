package cmpmsg

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// decoder is one pass over a message, or over a value from one. It keeps the first fault; after that every read gives a
// zero value and every list ends, so that parsers read like the grammar.
type decoder struct {
	size int // of the whole input, which has no capacity beyond it
	err  *Error
}

// input is what is left of a constructed element. Its slices are never cut in capacity, so that their place in the
// whole input shows; keep does that on the way out.
type input struct {
	d *decoder
	s cryptobyte.String
}

// inputOf is an input of the whole of der.
func inputOf(der []byte) *input {
	der = slices.Clip(der)
	return &input{d: &decoder{size: len(der)}, s: der}
}

// parseValue reads der, a value that stands alone, with read: behind the guard, and to its last byte.
func parseValue(der []byte, what string, read func(*input)) error {
	if err := cms.Check(der, cms.Limits{}); err != nil {
		return fromGuard(err)
	}
	in := inputOf(der)
	read(in)
	in.end(what)
	return in.result()
}

// result is the first fault as an error.
func (in *input) result() error {
	if in.d.err != nil {
		return in.d.err
	}
	return nil
}

// keep is a slice to give away: an append to it cannot write into the message.
func keep(b []byte) []byte { return slices.Clip(b) }

func (in *input) ok() bool { return in.d.err == nil }

// more reports whether there is an element to read.
func (in *input) more() bool { return in.ok() && !in.s.Empty() }

// fail records a fault at the element that begins with at.
func (in *input) fail(at []byte, kind error, what, problem string) {
	if in.d.err == nil {
		in.d.err = &Error{Offset: in.d.size - cap(at), What: what + ": " + problem, Err: kind}
	}
}

func (in *input) syntax(at []byte, what, problem string) { in.fail(at, cms.ErrSyntax, what, problem) }

func (in *input) tooMany(what string) { in.fail(in.s, cms.ErrLimit, what, "too many elements") }

// end demands that nothing is left.
func (in *input) end(what string) {
	if in.more() {
		in.syntax(in.s, what, "an element too many, or out of order")
	}
}

func (in *input) next(tag cbasn1.Tag) bool { return in.ok() && in.s.PeekASN1Tag(tag) }

// take returns the next element if it has the tag, else nil, which is no fault.
func (in *input) take(tag cbasn1.Tag) []byte {
	var der cryptobyte.String
	if !in.next(tag) || !in.s.ReadASN1Element(&der, tag) {
		return nil
	}
	return der
}

// need is take for an element that must be there.
func (in *input) need(tag cbasn1.Tag, what, problem string) []byte {
	at := in.s
	der := in.take(tag)
	if der == nil {
		in.syntax(at, what, problem)
	}
	return der
}

// open is the content of a low-tag element that take or any returned.
func (in *input) open(der []byte) *input {
	inside := &input{d: in.d}
	s := cryptobyte.String(der)
	var tag cbasn1.Tag
	if len(der) > 0 && !s.ReadAnyASN1(&inside.s, &tag) {
		in.syntax(der, "element", "cannot be opened")
	}
	return inside
}

// within reads the content of an element to its end.
func (in *input) within(der []byte, what string, read func(*input)) {
	if !in.ok() || der == nil {
		return
	}
	inside := in.open(der)
	read(inside)
	inside.end(what)
}

// sequence reads a SEQUENCE to its end and returns its DER.
func (in *input) sequence(what string, read func(*input)) []byte {
	der := in.need(cbasn1.SEQUENCE, what, "SEQUENCE expected")
	in.within(der, what, read)
	return der
}

// tagged reads [n] to its end if it is next: an explicit tag, or the implicit one of a SEQUENCE.
func (in *input) tagged(n uint8, what string, read func(*input)) bool {
	der := in.take(constructed(n))
	in.within(der, what, read)
	return der != nil
}

// list reads a SEQUENCE OF with least to most elements.
func (in *input) list(what string, least, most int, each func(*input)) {
	at := in.s
	in.sequence(what, func(in *input) {
		n := 0
		for ; in.more(); n++ {
			if n == most {
				in.tooMany(what)
				return
			}
			each(in)
		}
		if in.ok() && n < least {
			in.syntax(at, what, "no element in it")
		}
	})
}

// any returns the next element, whatever it is; the guard knows that it is whole.
func (in *input) any(what string) []byte {
	at := in.s
	if !in.ok() {
		return nil
	}
	if in.s.Empty() {
		in.syntax(at, what, "missing")
		return nil
	}
	var der cryptobyte.String
	var tag cbasn1.Tag
	if at[0]&0x1f != 0x1f {
		if !in.s.ReadAnyASN1Element(&der, &tag) {
			in.syntax(at, what, "not an element")
		}
		return der
	}
	size := highTagSize(at)
	if size == 0 {
		in.syntax(at, what, "not an element")
		return nil
	}
	in.s = at[size:]
	return at[:size]
}

// highTagSize is the size of the element that s begins with, whose tag number is above 30: cryptobyte reads none. 0 when
// there is none, though after the guard there always is.
func highTagSize(s []byte) int {
	n := 1
	for n < len(s) && s[n]&0x80 != 0 {
		n++
	}
	if n++; n >= len(s) {
		return 0
	}
	length := int(s[n])
	n++
	if length >= 0x80 {
		octets := length & 0x7f
		if octets > 3 || octets > len(s)-n {
			return 0
		}
		length = 0
		for _, b := range s[n : n+octets] {
			length = length<<8 | int(b)
		}
		n += octets
	}
	if length > len(s)-n {
		return 0
	}
	return n + length
}

func constructed(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
func primitive(n uint8) cbasn1.Tag   { return cbasn1.Tag(n).ContextSpecific() }

// retag is a copy of a low-tag element under another identifier octet.
func retag(der []byte, tag cbasn1.Tag) []byte {
	if len(der) == 0 {
		return nil
	}
	c := slices.Clone(der)
	c[0] = byte(tag)
	return c
}
