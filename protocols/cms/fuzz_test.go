package cms

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// seed adds the messages of testdata/cms, small hostile inputs, and with MUSTER_HOSTILE set to a folder the files in its
// subfolders.
func seed(f *testing.F) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join(vectors, "*.der"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	if dir := os.Getenv("MUSTER_HOSTILE"); dir != "" {
		more, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil || len(more) == 0 {
			f.Fatalf("nothing in %s: %v", dir, err)
		}
		paths = append(paths, more...)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, h := range hostile {
		f.Add([]byte(h.make(240)))
	}
	f.Add([]byte("\x30\x80\x23\x80\x03\x02\x00\xaa\x03\x02\x04\xf0\x00\x00\x2c\x80\x04\x01a\x00\x00\xbf\x1f\x80\x00\x00\x00\x00"))
}

func FuzzNormalize(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		steps, _, elements, _ := work(data, maxDepth)
		if steps > 3*elements+2 {
			t.Errorf("%d steps for %d elements", steps, elements)
		}
		der, err := Normalize(data, Limits{})
		if !bytes.Equal(data, before) {
			t.Fatal("the input is changed")
		}
		if err != nil {
			if Check(data, Limits{}) == nil {
				t.Errorf("refused, but DER: %v", err)
			}
			return
		}
		roomy := Limits{Size: maxSize}
		if err := Check(der, roomy); err != nil {
			t.Fatalf("the answer is not DER: %v", err)
		}
		again, err := Normalize(der, roomy)
		if err != nil || !bytes.Equal(again, der) {
			t.Errorf("the answer changes again: %v", err)
		}
		// The way back: the same message in the clumsiest BER gives the same DER.
		ber := clumsy(der, false)
		back, err := Normalize(ber, Limits{Depth: maxDepth, Elements: maxSize, Size: maxSize})
		if err != nil || !bytes.Equal(back, der) {
			t.Errorf("%x from BER is %x, %v", der, back, err)
		}
	})
}

// clumsy rewrites DER elements as BER: constructed ones with indefinite length, strings in segments, lengths padded.
// segment is set inside of what is a segment already.
func clumsy(der []byte, segment bool) []byte {
	var out []byte
	for len(der) > 0 {
		w := walker{data: der}
		h, err := w.header(0, len(der))
		if err != nil {
			panic(err)
		}
		id, body, rest := der[:h.id], der[h.body:h.body+h.length], der[h.body+h.length:]
		isString := h.class == classUniversal && h.id == 1 && (h.number == tagOctetString || h.number == 12 || h.number == 22)
		switch {
		case h.isOpen:
			out = append(out, id...)
			out = append(out, 0x80)
			out = append(out, clumsy(body, false)...)
			out = append(out, 0, 0)
		case isString && !segment && len(body) > 1:
			out = append(out, id[0]|constructedBit, 0x80)
			half := len(body) / 2
			out = append(out, clumsy([]byte(tlv(tagOctetString, string(body[:half]))), true)...)
			out = append(out, clumsy([]byte(tlv(tagOctetString, string(body[half:]))), true)...)
			out = append(out, 0, 0)
		default:
			out = append(out, id...)
			n := len(body)
			out = append(out, 0x85, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
			out = append(out, body...)
		}
		der = rest
	}
	return out
}

func FuzzParseCertsOnly(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseCertsOnly(data, Limits{})
		if err != nil || len(list) == 0 {
			return
		}
		built, err := CertsOnly(list...)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseCertsOnly(built, Limits{Size: maxSize, Elements: maxSize})
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d certificates become %d, %v", len(list), len(again), err)
		}
		for i := range list {
			if !bytes.Equal(list[i], again[i]) {
				t.Errorf("certificate %d changes", i)
			}
		}
	})
}
