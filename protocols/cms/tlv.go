package cms

const (
	constructedBit = 0x20
	classUniversal = 0

	tagBitString   = 3
	tagOctetString = 4
	tagOID         = 6
	tagSequence    = 0x30

	// maxLengthOctets is how many octets a long length may have: encoders with a fixed width pad to 4 or 8.
	maxLengthOctets = 8
	// maxTagOctets is how many octets a high tag number may have after the first: 28 bits.
	maxTagOctets = 4
)

// header reads identifier and length at pos and checks both against limit (X.690 sections 8.1.2 and 8.1.3).
func (w *walker) header(pos, limit int) (header, error) {
	d := w.data[:limit]
	if pos >= limit {
		return header{}, w.fail(ErrSyntax, pos, "input ends where an element is due")
	}
	h := header{tag: d[pos], id: 1, class: d[pos] >> 6, number: d[pos] & 0x1f, isOpen: d[pos]&constructedBit != 0}
	if h.number == 0x1f {
		if err := w.highTag(&h, d, pos); err != nil {
			return h, err
		}
	}
	at := pos + h.id
	if at >= limit {
		return h, w.fail(ErrSyntax, at, "input ends inside a header")
	}
	first := d[at]
	h.body = at + 1
	h.minimal = true
	switch {
	case first < 0x80:
		h.length = int(first)
	case first == 0x80:
		// X.690 section 8.1.3.2: for constructed encodings only.
		if !h.isOpen {
			return h, w.fail(ErrSyntax, at, "indefinite length of a primitive element")
		}
		h.indefinite, h.minimal = true, false
		return h, nil
	default:
		octets := int(first & 0x7f)
		if octets > maxLengthOctets {
			return h, w.fail(ErrSyntax, at, "length of too many octets")
		}
		if octets > limit-h.body {
			return h, w.fail(ErrSyntax, at, "input ends inside a header")
		}
		for _, b := range d[h.body : h.body+octets] {
			// Checked before each octet, so that it never overflows.
			if h.length > maxSize>>8 {
				return h, w.fail(ErrSyntax, at, "length beyond the enclosing element")
			}
			h.length = h.length<<8 | int(b)
		}
		h.body += octets
		h.minimal = octets == lengthOctets(h.length)-1
	}
	if h.length > limit-h.body {
		return h, w.fail(ErrSyntax, at, "length beyond the enclosing element")
	}
	return h, nil
}

// highTag reads the octets of a tag number above 30 (X.690 section 8.1.2.4).
func (w *walker) highTag(h *header, d []byte, pos int) error {
	number := 0
	for {
		at := pos + h.id
		switch {
		case at >= len(d):
			return w.fail(ErrSyntax, at, "input ends inside a header")
		case h.id > maxTagOctets:
			return w.fail(ErrSyntax, at, "tag number of too many octets")
		case h.id == 1 && d[at] == 0x80:
			return w.fail(ErrSyntax, at, "tag number is not minimal")
		}
		number = number<<7 | int(d[at]&0x7f)
		h.id++
		if d[at]&0x80 == 0 {
			break
		}
	}
	if number < 0x1f {
		return w.fail(ErrSyntax, pos, "tag number is not minimal")
	}
	h.tag, h.number = 0, 0
	return nil
}

// universal checks the form that a universal type demands. For a constructed string it returns the tag number that the
// segments must have.
func (w *walker) universal(h header, pos int) (segment byte, err error) {
	switch h.number {
	case 0:
		// X.690 section 8.1.5: end-of-contents has its place, and this is not it.
		return 0, w.fail(ErrSyntax, pos, "end-of-contents out of place")
	case 8, 11, 16, 17: // EXTERNAL, EMBEDDED PDV, SEQUENCE, SET
		if !h.isOpen {
			return 0, w.fail(ErrSyntax, pos, "primitive encoding of a constructed type")
		}
		return 0, nil
	case tagBitString:
		segment = tagBitString
	case tagOctetString, 7, 12, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30:
		// X.690 section 8.23: the other strings, and times, are segmented into OCTET STRINGs.
		segment = tagOctetString
	case 29: // CHARACTER STRING has both forms
		return 0, nil
	default:
		if h.isOpen {
			return 0, w.fail(ErrSyntax, pos, "constructed encoding of a primitive type")
		}
		return 0, nil
	}
	if !h.isOpen {
		return 0, nil
	}
	if !w.record {
		return 0, w.fail(ErrNotDER, pos, "constructed string")
	}
	return segment, nil
}

// lengthOctets is the size of a DER length field (X.690 section 10.1).
func lengthOctets(length int) int {
	octets := 1
	if length >= 0x80 {
		for ; length > 0; length >>= 8 {
			octets++
		}
	}
	return octets
}

func appendLength(b []byte, length int) []byte {
	octets := lengthOctets(length)
	if octets == 1 {
		return append(b, byte(length))
	}
	b = append(b, 0x80|byte(octets-1))
	for i := octets - 2; i >= 0; i-- {
		b = append(b, byte(length>>(8*i)))
	}
	return b
}
