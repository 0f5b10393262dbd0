package cms

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	const oid, oct = "\x06\x01\x2a", "\x04\x02ab"
	long := strings.Repeat("x", 200)
	for _, tt := range []struct {
		name, ber, der string
	}{
		{"primitive", oct, oct},
		{"empty SEQUENCE", "\x30\x00", "\x30\x00"},
		{"indefinite", "\x30\x80\x00\x00", "\x30\x00"},
		{"nested indefinite", "\x30\x80\x31\x80\xa5\x80" + oct + "\x00\x00\x00\x00\x00\x00", "\x30\x08\x31\x06\xa5\x04" + oct},
		{"indefinite in definite", "\x30\x06\x31\x80\x05\x00\x00\x00", "\x30\x04\x31\x02\x05\x00"},
		{"definite in indefinite", "\x30\x80\x31\x02\x05\x00\x05\x00\x00\x00", "\x30\x06\x31\x02\x05\x00\x05\x00"},
		{"long length", "\x30\x81\x02\x05\x00", "\x30\x02\x05\x00"},
		{"length of 4 octets", "\x30\x84\x00\x00\x00\x02\x05\x00", "\x30\x02\x05\x00"},
		{"length of 8 octets", "\x04\x88\x00\x00\x00\x00\x00\x00\x00\x01a", "\x04\x01a"},
		{"long content", "\x30\x80" + tlv(4, long) + "\x00\x00", tlv(0x30, tlv(4, long))},
		{"OCTET STRING in segments", "\x24\x80\x04\x01a\x04\x00\x04\x02bc\x00\x00", "\x04\x03abc"},
		{"definite segments", "\x24\x06\x04\x01a\x04\x01b", "\x04\x02ab"},
		{"segments in segments", "\x24\x80\x24\x80\x04\x01a\x24\x00\x00\x00\x04\x01b\x00\x00", "\x04\x02ab"},
		{"no segments", "\x24\x80\x00\x00", "\x04\x00"},
		{"segments add up", "\x24\x80" + strings.Repeat(tlv(4, long), 3) + "\x00\x00", tlv(4, long, long, long)},
		{"BIT STRING in segments", "\x23\x80\x03\x02\x00\xaa\x03\x02\x04\xf0\x00\x00", "\x03\x03\x04\xaa\xf0"},
		{"BIT STRING, nested", "\x23\x80\x23\x80\x03\x02\x00\xaa\x00\x00\x23\x80\x03\x02\x03\xf8\x00\x00\x00\x00", "\x03\x03\x03\xaa\xf8"},
		{"BIT STRING without segments", "\x23\x00", "\x03\x01\x00"},
		{"UTF8String in segments", "\x2c\x80\x04\x01a\x04\x01b\x00\x00", "\x0c\x02ab"},
		{"high tag number", "\xbf\x1f\x80\x05\x00\x00\x00", "\xbf\x1f\x02\x05\x00"},
		{"higher tag number", "\xbf\x81\x00\x80\x05\x00\x00\x00", "\xbf\x81\x00\x02\x05\x00"},
		{"zeros in content", "\x30\x80\x04\x02\x00\x00\x00\x00", "\x30\x04\x04\x02\x00\x00"},
		{"explicit eContent", "\x30\x80" + oid + "\xa0\x80\x24\x80" + oct + oct + "\x00\x00\x00\x00\x00\x00", tlv(0x30, oid, tlv(0xa0, "\x04\x04abab"))},
		{"encryptedContent", "\x30\x80" + oid + "\x30\x00\xa0\x80" + oct + oct + "\x00\x00\x00\x00", tlv(0x30, oid, "\x30\x00", "\x80\x04abab")},
		{"encryptedContent, definite", tlv(0x30, oid, "\x30\x00", tlv(0xa0, oct)), tlv(0x30, oid, "\x30\x00", "\x80\x02ab")},
		{"encryptedContent, nested", tlv(0x30, oid, "\x30\x00", tlv(0xa0, tlv(0x24, oct, oct), oct)), tlv(0x30, oid, "\x30\x00", "\x80\x06ababab")},
		{"[0] with another type", "\x30\x80" + oid + "\x30\x00\xa0\x80" + oct + "\x05\x00\x00\x00\x00\x00", tlv(0x30, oid, "\x30\x00", tlv(0xa0, oct, "\x05\x00"))},
		{"[0] in another place", "\x30\x80\x30\x00" + oid + "\xa0\x80" + oct + "\x00\x00\x00\x00", tlv(0x30, "\x30\x00", oid, tlv(0xa0, oct))},
		{"[0] as the fourth", "\x30\x80" + oid + "\x30\x00\x05\x00\xa0\x80" + oct + "\x00\x00\x00\x00", tlv(0x30, oid, "\x30\x00\x05\x00", tlv(0xa0, oct))},
		{"[1] as the third", "\x30\x80" + oid + "\x30\x00\xa1\x80" + oct + "\x00\x00\x00\x00", tlv(0x30, oid, "\x30\x00", tlv(0xa1, oct))},
		{"empty [0]", tlv(0x30, oid, "\x30\x00\xa0\x00"), tlv(0x30, oid, "\x30\x00\xa0\x00")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := []byte(tt.ber)
			got, err := Normalize(in, Limits{})
			if err != nil || string(got) != tt.der {
				t.Fatalf("%x, %v; want %x", got, err, tt.der)
			}
			if tt.ber == tt.der && &got[0] != &in[0] {
				t.Error("DER is copied")
			}
			if string(in) != tt.ber {
				t.Error("the input is changed")
			}
			if err := Check(got, Limits{}); err != nil {
				t.Errorf("the answer is not DER: %v", err)
			}
			again, err := Normalize(got, Limits{})
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("the answer changes again: %x, %v", again, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, ber string
		offset    int
	}{
		{"nothing", "", 0},
		{"tag alone", "\x30", 1},
		{"length alone", "\x30\x81", 1},
		{"length cut short", "\x30\x82\x01", 1},
		{"content cut short", "\x04\x02a", 1},
		{"longer than its parent", "\x30\x03\x04\x02ab", 3},
		{"longer than its parent, input enough", "\x30\x04\x30\x03\x04\x02ab", 3},
		{"trailing", "\x30\x00\x00", 2},
		{"trailing after indefinite", "\x30\x80\x00\x00\x00\x00", 4},
		{"no end-of-contents", "\x30\x80\x05\x00", 4},
		{"half of end-of-contents", "\x30\x80\x05\x00\x00", 5},
		{"end-of-contents beyond the parent", "\x30\x04\x30\x80\x05\x00\x00\x00", 6},
		{"end-of-contents in definite", "\x30\x02\x00\x00", 2},
		{"end-of-contents alone", "\x00\x00", 0},
		{"end-of-contents with a length", "\x30\x80\x00\x01a\x00\x00", 2},
		{"indefinite primitive", "\x04\x80\x00\x00", 1},
		{"reserved length", "\x30\xff", 1},
		{"length of 9 octets", "\x04\x89\x00\x00\x00\x00\x00\x00\x00\x00\x01a", 1},
		{"length overflows 32 bits", "\x04\x85\x01\x00\x00\x00\x01a", 1},
		{"length overflows 64 bits", "\x04\x88\xff\xff\xff\xff\xff\xff\xff\xffa", 1},
		{"length of 2^31", "\x04\x84\x80\x00\x00\x00a", 1},
		{"length wraps to the start", "\x30\x84\xff\xff\xff\xfa\x05\x00", 1},
		{"primitive SEQUENCE", "\x10\x00", 0},
		{"primitive SET", "\x30\x02\x11\x00", 2},
		{"constructed INTEGER", "\x22\x03\x02\x01\x01", 0},
		{"constructed BOOLEAN", "\x21\x00", 0},
		{"constructed NULL", "\x25\x00", 0},
		{"constructed OBJECT IDENTIFIER", "\x26\x00", 0},
		{"segment of another type", "\x24\x80\x0c\x01a\x00\x00", 2},
		{"segment with a context tag", "\x24\x80\x80\x01a\x00\x00", 2},
		{"segment with a high tag", "\x24\x80\x1f\x1f\x01a\x00\x00", 2},
		{"OCTET STRING in a BIT STRING", "\x23\x80\x04\x01a\x00\x00", 2},
		{"UTF8String in a UTF8String", "\x2c\x80\x0c\x01a\x00\x00", 2},
		{"empty segment of a BIT STRING", "\x23\x80\x03\x00\x00\x00", 2},
		{"8 unused bits", "\x23\x80\x03\x02\x08a\x00\x00", 2},
		{"unused bits of nothing", "\x23\x80\x03\x01\x01\x00\x00", 2},
		{"unused bits in the middle", "\x23\x80\x03\x02\x01a\x03\x02\x00a\x00\x00", 6},
		{"unused bits before a nested segment", "\x23\x80\x03\x02\x01a\x23\x00\x00\x00", 6},
		{"unused bits in a nested segment", "\x23\x80\x23\x04\x03\x02\x01a\x03\x02\x00a\x00\x00", 8},
		{"tag number below 31 in high form", "\x1f\x1e\x00", 0},
		{"tag number with a leading zero", "\x1f\x80\x1f\x00", 1},
		{"tag number of 5 octets", "\x1f\x81\x80\x80\x80\x00\x00", 5},
		{"tag number without end", "\x1f\xff\xff", 3},
	} {
		for name, call := range map[string]func([]byte, Limits) error{
			"Check":     Check,
			"Normalize": func(b []byte, l Limits) error { _, err := Normalize(b, l); return err },
		} {
			err := call([]byte(tt.ber), Limits{})
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Errorf("%s: %s: %v", tt.name, name, err)
				continue
			}
			// Check stops at the first thing that is not DER, before what is wrong beyond it.
			if name == "Check" && errors.Is(err, ErrNotDER) && e.Offset <= tt.offset {
				continue
			}
			if !errors.Is(err, ErrSyntax) || e.Offset != tt.offset {
				t.Errorf("%s: %s: %v, want offset %d", tt.name, name, err, tt.offset)
			}
		}
	}
}

func TestCheckRefusesBER(t *testing.T) {
	for name, ber := range map[string]string{
		"indefinite": "\x30\x80\x00\x00", "long length": "\x30\x81\x00", "padded length": "\x30\x82\x00\x80" + strings.Repeat("\x05\x00", 64),
		"segments": "\x24\x03\x04\x01a", "deep": "\x30\x06\x30\x04\x30\x80\x00\x00",
	} {
		if err := Check([]byte(ber), Limits{}); !errors.Is(err, ErrNotDER) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Normalize([]byte(ber), Limits{}); err != nil {
			t.Errorf("%s: Normalize: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	nested := func(n int) string {
		s := "\x05\x00"
		for range n - 1 {
			s = tlv(0x30, s)
		}
		return s
	}
	wide := func(n int) string { return tlv(0x30, strings.Repeat("\x05\x00", n-1)) }
	for _, tt := range []struct {
		name   string
		in     string
		limits Limits
		want   error
	}{
		{"32 deep", nested(32), Limits{}, nil},
		{"33 deep", nested(33), Limits{}, ErrLimit},
		{"33 deep, allowed", nested(33), Limits{Depth: 33}, nil},
		{"65 deep is never allowed", nested(65), Limits{Depth: 1000}, ErrLimit},
		{"1 deep", nested(2), Limits{Depth: 1}, ErrLimit},
		{"as many elements as allowed", wide(DefaultElements), Limits{}, nil},
		{"one more", wide(DefaultElements + 1), Limits{}, ErrLimit},
		{"3 elements", wide(3), Limits{Elements: 2}, ErrLimit},
		{"as long as allowed", tlv(4, strings.Repeat("a", DefaultSize-5)) + "", Limits{}, nil},
		{"one byte more", tlv(4, strings.Repeat("a", DefaultSize-4)), Limits{}, ErrLimit},
		{"10 bytes", wide(5), Limits{Size: 9}, ErrLimit},
	} {
		err := Check([]byte(tt.in), tt.limits)
		_, nerr := Normalize([]byte(tt.in), tt.limits)
		if !errors.Is(err, tt.want) || !errors.Is(nerr, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, err, nerr, tt.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Normalize([]byte("\x30\x04\x30\x03\x04\x02ab"), Limits{})
	if want := "cms: invalid encoding at byte 3: length beyond the enclosing element"; fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}
