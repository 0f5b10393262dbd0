package est

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/wire"
)

// FuzzBody: what decodes, decodes to the same when encoded again, and white space changes nothing.
func FuzzBody(f *testing.F) {
	for _, body := range vectors(f, "bodies") {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		der, err := decodeBody(body)
		if err != nil {
			if der != nil {
				t.Fatalf("bytes with the error %v", err)
			}
			return
		}
		for _, wrap := range []bool{false, true} {
			again, err := decodeBody(encodeBody(der, wrap))
			if len(der) > 0 && (err != nil || !bytes.Equal(again, der)) {
				t.Fatalf("wrap %v: %v", wrap, err)
			}
		}
	})
}

// FuzzRequest: a body is refused with a reason and a detail, or it is a complete request with its signature verified.
func FuzzRequest(f *testing.F) {
	for _, body := range vectors(f, "bodies") {
		if der, err := decodeBody(body); err == nil {
			f.Add(der)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, ref := read([]byte(base64.StdEncoding.EncodeToString(der)))
		if ref != nil {
			if _, known := statusOf(ref.Err.Reason, false); !known || ref.Err.Detail == "" {
				t.Fatalf("refused with %q, %q", ref.Err.Reason, ref.Err.Detail)
			}
			if text := wire.Line(ref.Err.Detail, ""); strings.Contains(text, "\n") || len(text) > wire.MaxDetail+10 {
				t.Fatalf("%q", text)
			}
			return
		}
		if !bytes.Equal(r.CSR, der) || r.POP != gateway.POPSignature || len(r.Content) == 0 {
			t.Fatalf("%+v", r)
		}
		if _, err := pkix.ParsePublicKey(r.PublicKey); err != nil {
			t.Fatal(err)
		}
		csr, err := pkix.ParseCSR(r.CSR)
		if err != nil || csr.CheckSignature() != nil {
			t.Fatalf("a request that does not verify: %v", err)
		}
	})
}

// FuzzChangeSubjectName: what is accepted names something, in DER that is accepted again.
func FuzzChangeSubjectName(f *testing.F) {
	for _, der := range vectors(f, "changesubjectname") {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		names, err := parseChangeSubjectName(der)
		if err != nil {
			return
		}
		if names.Subject == nil && names.SubjectAltName == nil {
			t.Fatal("no names")
		}
		if names.Subject != nil {
			if _, err := pkix.ParseName(names.Subject); err != nil {
				t.Fatal(err)
			}
		}
		if names.SubjectAltName != nil {
			if _, err := pkix.ParseGeneralNames(names.SubjectAltName); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDirectoryString: what is accepted is short enough to be compared.
func FuzzDirectoryString(f *testing.F) {
	f.Add([]byte{19, 2, 'o', 'k'})
	f.Add([]byte{12, 0})
	f.Add([]byte{30, 2, 0, 'x'})
	f.Fuzz(func(t *testing.T, der []byte) {
		if s, err := parseDirectoryString(der); err == nil && len(s) > maxChallenge {
			t.Fatalf("%d bytes", len(s))
		}
	})
}

// FuzzPath: a path never gives an operation with a slash in it, nor panics.
func FuzzPath(f *testing.F) {
	for _, p := range []string{root, root + "/", root + "/cacerts", root + "/ran/cacerts", root + "/a/b/c", "//", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		label, op, labelled := splitPath(path)
		if strings.Contains(label+op, "/") || (!labelled && label != "") {
			t.Fatalf("%q: %q, %q, %v", path, label, op, labelled)
		}
	})
}
