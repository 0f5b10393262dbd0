// Package cms reads and writes Cryptographic Message Syntax (RFC 5652) for the protocol adapters. No byte from the
// network reaches an ASN.1 or CMS library before the guard here, Normalize or Check, has walked it.
//
// It is a leaf: pure functions from bytes to bytes, without HTTP, without the gateway, without state. It judges
// form only; certificates and keys are for gateway/pkix.
package cms

import (
	"errors"
	"fmt"
)

// Errors of the guard and of the parsers behind it, by errors.Is. An *Error around them has the offset.
var (
	ErrSyntax = errors.New("invalid encoding")
	ErrLimit  = errors.New("limit exceeded")
	// ErrNotDER is of Check only: Normalize would have turned the encoding into DER.
	ErrNotDER = errors.New("not DER")
)

// Error is where and why the input was refused.
type Error struct {
	Offset int    // byte offset into the input, of the element or octet at fault
	What   string // in plain words; never taken from the input
	Err    error  // ErrSyntax, ErrLimit or ErrNotDER
}

func (e *Error) Error() string { return fmt.Sprintf("cms: %v at byte %d: %s", e.Err, e.Offset, e.What) }

func (e *Error) Unwrap() error { return e.Err }

// Limits bound what the guard accepts. A zero field takes its default.
type Limits struct {
	Depth    int // nested elements, the outermost counted: 32
	Elements int // tag-length-value elements: 16384
	Size     int // bytes of input: 262144
}

// Defaults of Limits.
const (
	DefaultDepth    = 32
	DefaultElements = 16384
	DefaultSize     = 256 << 10
)

const (
	maxDepth = 64        // whatever Limits say
	maxSize  = 1<<30 - 1 // offsets are kept in 32 bits
)

func (l Limits) orDefault() Limits {
	fill := func(v *int, def, max int) {
		if *v == 0 {
			*v = def
		}
		*v = min(*v, max)
	}
	fill(&l.Depth, DefaultDepth, maxDepth)
	fill(&l.Elements, DefaultElements, maxSize)
	fill(&l.Size, DefaultSize, maxSize)
	return l
}

// Normalize checks that data is exactly one well-formed BER element within the limits (X.690 section 8) and returns it
// in DER: lengths definite and minimal, strings primitive. What is DER already is returned as it is, not copied.
// It takes one walk over data, and one over what it recorded when something has to change; work and memory are linear.
//
// The constructed form of an implicitly tagged string cannot be told from an explicit tag by its octets. Of the
// places where CMS has one, senders use the constructed form in encryptedContent [0] alone, which is known by its
// surroundings: SEQUENCE { OBJECT IDENTIFIER, SEQUENCE, [0] { OCTET STRING ... } } (RFC 5652 section 6.1).
//
// Values are left alone, and so is the order of a SET OF; the parsers behind judge them.
func Normalize(data []byte, l Limits) (der []byte, err error) {
	w := walker{data: data, limits: l.orDefault(), record: true}
	if err := w.walk(); err != nil {
		return nil, err
	}
	if w.nodes[0].exact {
		return data, nil
	}
	return w.emit(), nil
}

// Check is Normalize for what must be DER on the wire, such as a CMP message: nothing is converted, and what is BER
// only is ErrNotDER. It allocates nothing.
func Check(der []byte, l Limits) error {
	w := walker{data: der, limits: l.orDefault()}
	return w.walk()
}

// walker walks the elements of data in order, with a stack of the constructed ones that are open.
type walker struct {
	data   []byte
	limits Limits
	record bool // for Normalize: convert rather than refuse BER

	stack    [maxDepth]frame
	depth    int
	nodes    []node // in the order of their identifiers
	elements int
	steps    int // loop iterations, so that tests can count the work
}

// frame is an open constructed element.
type frame struct {
	node       int // its index in walker.nodes
	limit      int // its content ends here, or before when indefinite
	indefinite bool
	tag        byte // identifier, 0 when it is not a low tag number
	segment    byte // universal tag number that its segments must have, 0 when it is no string
	implicit   bool // may turn out to be encryptedContent
	octets     bool // so far all children are OCTET STRINGs
	children   int
	shape      uint8 // of the children so far: see shapeOID
	exact      bool  // so far DER
	size       int   // DER octets of the children
	flat       int   // content octets of the primitive elements within a string
	unused     byte  // unused bits of the last segment of a BIT STRING
}

const (
	shapeOID      = 1 << iota // the first child is an OBJECT IDENTIFIER
	shapeSequence             // and the second one a SEQUENCE
)

// node is an element as Normalize remembers it.
type node struct {
	offset, body, end int32 // identifier, content, end of the content
	stop              int32 // end of the element: after end-of-contents, if there is one
	size              int32 // DER length of the content
	last              int32 // index after its last descendant
	id                uint8 // identifier octets
	constructed       bool
	exact             bool // data[offset:stop] is DER
	join              bool // a constructed string: its segments become its content
	bits              bool // with join, a BIT STRING
	unused            byte // with bits
}

func (w *walker) fail(kind error, offset int, what string) error {
	return &Error{Offset: offset, What: what, Err: kind}
}

func (w *walker) walk() error {
	if len(w.data) > w.limits.Size {
		return w.fail(ErrLimit, w.limits.Size, "input is too long")
	}
	pos := 0
	for pos == 0 || w.depth > 0 {
		w.steps++
		limit := len(w.data)
		var top *frame
		if w.depth > 0 {
			top = &w.stack[w.depth-1]
			limit = top.limit
			if !top.indefinite && pos == limit {
				w.close(pos, pos)
				continue
			}
			if top.indefinite && limit-pos >= 2 && w.data[pos] == 0 && w.data[pos+1] == 0 {
				w.close(pos, pos+2)
				pos += 2
				continue
			}
		}
		next, err := w.element(top, pos, limit)
		if err != nil {
			return err
		}
		pos = next
	}
	if pos != len(w.data) {
		return w.fail(ErrSyntax, pos, "bytes after the end")
	}
	return nil
}

// header is a parsed identifier and length.
type header struct {
	tag        byte // first identifier octet; 0 for a high tag number
	id         int  // identifier octets
	body       int  // offset of the content
	length     int  // of the content
	indefinite bool
	minimal    bool // the length has its shortest form
	class      byte
	number     byte // of a low tag
	isOpen     bool // constructed
}

// element reads the element at pos, which lies within limit. It returns where to go on: after a primitive element, or
// at the content of a constructed one, which is open then.
func (w *walker) element(parent *frame, pos, limit int) (next int, err error) {
	h, err := w.header(pos, limit)
	if err != nil {
		return 0, err
	}
	if w.elements++; w.elements > w.limits.Elements {
		return 0, w.fail(ErrLimit, pos, "too many elements")
	}
	if w.depth >= w.limits.Depth {
		return 0, w.fail(ErrLimit, pos, "nested too deep")
	}
	segment := byte(0)
	if h.class == classUniversal && h.id == 1 {
		if segment, err = w.universal(h, pos); err != nil {
			return 0, err
		}
	}
	if !w.record && !h.minimal {
		return 0, w.fail(ErrNotDER, pos, "length is not definite and minimal")
	}
	implicit := false
	if parent != nil {
		if parent.segment != 0 && (h.class != classUniversal || h.number != parent.segment || h.id != 1) {
			return 0, w.fail(ErrSyntax, pos, "segment of another type in a constructed string")
		}
		// X.690 section 8.6.4: unused bits in the last segment only.
		if parent.unused != 0 {
			return 0, w.fail(ErrSyntax, pos, "segment after one with unused bits")
		}
		implicit = h.tag == 0xa0 && parent.tag == tagSequence && parent.children == 2 && parent.shape == shapeOID|shapeSequence
		parent.child(h)
	}

	if h.isOpen {
		f := frame{
			node: len(w.nodes), limit: h.body + h.length, indefinite: h.indefinite, tag: h.tag, segment: segment,
			implicit: implicit, octets: true, exact: h.minimal && segment == 0,
		}
		if h.indefinite {
			f.limit = limit
		}
		if w.record {
			w.nodes = append(w.nodes, node{offset: int32(pos), body: int32(h.body), id: uint8(h.id), constructed: true})
		}
		w.stack[w.depth] = f
		w.depth++
		return h.body, nil
	}

	end := h.body + h.length
	flat := h.length
	unused := byte(0)
	if parent != nil && parent.segment == tagBitString {
		if h.length == 0 || w.data[h.body] > 7 || (h.length == 1 && w.data[h.body] != 0) {
			return 0, w.fail(ErrSyntax, pos, "segment of a BIT STRING")
		}
		flat, unused = h.length-1, w.data[h.body]
	}
	if w.record {
		w.nodes = append(w.nodes, node{
			offset: int32(pos), body: int32(h.body), end: int32(end), stop: int32(end), size: int32(h.length),
			last: int32(len(w.nodes) + 1), id: uint8(h.id), exact: h.minimal,
		})
	}
	if parent != nil {
		parent.add(h.id+lengthOctets(h.length)+h.length, flat, unused, h.minimal)
	}
	return end, nil
}

// child counts a child of f by its identifier.
func (f *frame) child(h header) {
	switch {
	case f.children == 0 && h.tag == tagOID:
		f.shape |= shapeOID
	case f.children == 1 && h.tag == tagSequence:
		f.shape |= shapeSequence
	}
	f.children++
	f.octets = f.octets && h.class == classUniversal && h.id == 1 && h.number == tagOctetString
}

// add sums up a finished child of f.
func (f *frame) add(size, flat int, unused byte, exact bool) {
	f.size += size
	f.flat += flat
	f.unused = unused
	f.exact = f.exact && exact
}

// close ends the innermost open element, whose content ends at end and which itself ends at stop.
func (w *walker) close(end, stop int) {
	w.depth--
	f := &w.stack[w.depth]
	join := f.segment != 0 || (f.implicit && f.octets && f.children > 0)
	if join {
		f.exact = false
		f.size = f.flat
		if f.segment == tagBitString {
			f.size++
		}
	}
	id := 1
	if w.record {
		n := &w.nodes[f.node]
		id = int(n.id)
		n.end, n.stop, n.last, n.size = int32(end), int32(stop), int32(len(w.nodes)), int32(f.size)
		n.exact, n.join, n.bits, n.unused = f.exact, join, f.segment == tagBitString, f.unused
	}
	if w.depth > 0 {
		w.stack[w.depth-1].add(id+lengthOctets(f.size)+f.size, f.flat, f.unused, f.exact)
	}
}

// emit writes the DER of what walk recorded: sizes are known, so it goes once from front to back.
func (w *walker) emit() []byte {
	root := &w.nodes[0]
	out := make([]byte, 0, int(root.id)+lengthOctets(int(root.size))+int(root.size))
	joined, skip := int32(0), int32(0) // nodes before joined are segments; skip octets of each are not content
	for i := int32(0); i < int32(len(w.nodes)); {
		w.steps++
		n := &w.nodes[i]
		switch {
		case i < joined:
			if !n.constructed {
				out = append(out, w.data[n.body+skip:n.end]...)
			}
			i++
			continue
		case n.exact:
			out = append(out, w.data[n.offset:n.stop]...)
			i = n.last
			continue
		}
		id := len(out)
		out = append(out, w.data[n.offset:n.offset+int32(n.id)]...)
		if n.join {
			out[id] &^= constructedBit
		}
		out = appendLength(out, int(n.size))
		switch {
		case n.join:
			joined, skip = n.last, 0
			if n.bits {
				out, skip = append(out, n.unused), 1
			}
		case !n.constructed:
			out = append(out, w.data[n.body:n.end]...)
		}
		i++
	}
	return out
}
