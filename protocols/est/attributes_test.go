package est

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func extensionsOf(dns ...string) []byte {
	return must(asn1.Marshal([]pkix.Extension{{Id: oidSubjectAltName, Value: must(asn1.Marshal(generalNames(dns...)))}}))
}

// changeSubject is a ChangeSubjectName of a Name and the content of GeneralNames, with the erratum's tag or without.
func changeSubject(subject, alt []byte, tagged bool) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(subject)
		if alt != nil {
			tag := cryptobyteasn1.SEQUENCE
			if tagged {
				tag = tagSubjectAlt
			}
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(alt) })
		}
	})
	return b.BytesOrPanic()
}

// RFC 6402 section 2.8, with erratum 3943 and as it was before.
func TestChangeSubjectName(t *testing.T) {
	alt := append([]byte{0x82, 9}, "a.example"...)
	san := append([]byte{0x30, 11}, alt...)
	name := nameDER("device-0002")
	empty := []byte{0x30, 0}
	for _, c := range []struct {
		what         string
		in           []byte
		subject, san []byte
	}{
		{"both, tagged", changeSubject(name, alt, true), name, san},
		{"both, untagged", changeSubject(name, alt, false), name, san},
		{"subject alone", changeSubject(name, nil, false), name, nil},
		{"subjectAlt alone, tagged", changeSubject(nil, alt, true), nil, san},
		{"subjectAlt alone, untagged", changeSubject(nil, alt, false), nil, san},
		{"the empty name", changeSubject(empty, alt, true), empty, san},
		{"the empty name alone", changeSubject(empty, nil, true), empty, nil},
	} {
		got, err := parseChangeSubjectName(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if !bytes.Equal(got.Subject, c.subject) || (got.Subject == nil) != (c.subject == nil) || !bytes.Equal(got.SubjectAltName, c.san) || (got.SubjectAltName == nil) != (c.san == nil) {
			t.Errorf("%s: %x, %x", c.what, got.Subject, got.SubjectAltName)
		}
	}
	for what, in := range map[string][]byte{
		"nothing":                 nil,
		"neither":                 {0x30, 0},
		"a string":                printable("x"),
		"bytes after it":          append(changeSubject(name, alt, true), 0),
		"bytes inside it":         changeSubject(append(bytes.Clone(name), 5, 0), nil, true),
		"subjectAlt twice":        changeSubject(append(bytes.Clone(san), san...), nil, false),
		"subjectAlt first":        changeSubject(append(bytes.Clone(san), name...), nil, false),
		"a third field":           changeSubject(append(bytes.Clone(name), san...), alt, true),
		"subjectAlt without name": changeSubject(name, []byte{}, true),
		"an empty dNSName":        changeSubject(name, []byte{0x82, 0}, true),
		"another tag":             changeSubject([]byte{0xa2, 2, 0x82, 0}, nil, false),
		"a Name of garbage":       changeSubject([]byte{0x30, 3, 0x31, 1, 0}, nil, false),
	} {
		if got, err := parseChangeSubjectName(in); err == nil {
			t.Errorf("%s: %x, %x", what, got.Subject, got.SubjectAltName)
		}
	}
}

// RFC 7030 sections 4.2.1 and 4.2.2: the names to change to reach the gateway beside the ones of the request.
func TestNewNames(t *testing.T) {
	w := newWorld(t, worldOptions{})
	cert, key := w.device("device-0001")
	change := changeSubject(nameDER("device-0002"), append([]byte{0x82, 9}, "b.example"...), true)
	body := b64(makeCSR(t, csrOptions{key: newP256(), san: []string{"a.example"}, attributes: [][]byte{attribute(oidChangeSubjectName, change)}}))
	for _, op := range []string{"/simpleenroll", "/simplereenroll"} {
		if got := send(t, w.client(cert, key, nil), w.enrollment(root+op, body)); got.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", got.StatusCode, got.body)
		}
		asked := w.gateway.lastEnrolled(t)
		san, _ := asked.Extension(oidSubjectAltName)
		if asked.NewNames == nil || !bytes.Equal(asked.NewNames.Subject, nameDER("device-0002")) || !bytes.Contains(asked.NewNames.SubjectAltName, []byte("b.example")) ||
			!bytes.Equal(asked.Subject, nameDER("device-0001")) || !bytes.Contains(san, []byte("a.example")) {
			t.Errorf("%s: subject %x, new %+v", op, asked.Subject, asked.NewNames)
		}
	}
}

func TestDirectoryString(t *testing.T) {
	for _, tag := range []byte{12, 19, 20, 22} {
		if got, err := parseDirectoryString([]byte{tag, 2, 'o', 'k'}); err != nil || got != "ok" {
			t.Errorf("tag %d: %q, %v", tag, got, err)
		}
	}
	long := append([]byte{19, 0x82, 1, 0}, bytes.Repeat([]byte("x"), 256)...)
	for _, bad := range [][]byte{nil, {19, 3, 'o'}, {19, 1, 'o', 0}, {30, 2, 0, 'x'}, {4, 1, 'x'}, {2, 1, 1}, long} {
		if got, err := parseDirectoryString(bad); err == nil {
			t.Errorf("%x: %q", bad, got)
		}
	}
}

func TestDecodeBody(t *testing.T) {
	der := []byte{0x30, 3, 2, 1, 5}
	for _, good := range []string{"MAMCAQU=", "MAMC\r\nAQU=\r\n", " M A M C\tAQU\n=", encodeString(der, true), encodeString(der, false)} {
		if got, err := decodeBody([]byte(good)); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%q: %x, %v", good, got, err)
		}
	}
	for bad, want := range map[string]error{
		"": errEmpty, "\r\n": errEmpty,
		string(der): errDER, "0\x82\x01\x02more": errDER, "0\x80\x02\x01\x05\x00\x00": errDER,
		"-----BEGIN CERTIFICATE REQUEST-----\nMAMCAQU=\n-----END CERTIFICATE REQUEST-----\n": errPEM,
		"0":         errNotBase64,
		"MAMCAQU":   errNotBase64,
		"MAMCAQU==": errNotBase64,
		"MAMC\x00":  errNotBase64,
		"MAMC\vAQU": errNotBase64,
		"<html>":    errNotBase64,
	} {
		if got, err := decodeBody([]byte(bad)); err != want {
			t.Errorf("%q: %x, %v", bad, got, err)
		}
	}
}

func encodeString(der []byte, wrap bool) string { return string(encodeBody(der, wrap)) }

func TestEncodeBody(t *testing.T) {
	for _, n := range []int{0, 1, 47, 48, 49, 96, 1000} {
		der := bytes.Repeat([]byte{0xa5}, n)
		if got := encodeString(der, false); got != base64.StdEncoding.EncodeToString(der) {
			t.Errorf("%d bytes, one line: %q", n, got)
		}
		lines := strings.SplitAfter(encodeString(der, true), "\n")
		if lines[len(lines)-1] != "" {
			t.Errorf("%d bytes: the last line has no end", n)
		}
		for i, l := range lines[:len(lines)-1] {
			if len(l) > lineLength+1 || (len(l) != lineLength+1 && i != len(lines)-2) {
				t.Errorf("%d bytes: line %d has %d characters", n, i, len(l))
			}
		}
		if strings.Join(strings.Fields(encodeString(der, true)), "") != base64.StdEncoding.EncodeToString(der) {
			t.Errorf("%d bytes, lines: another content", n)
		}
	}
}
