package cmpmsg

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const vectors = "../../../testdata/cmp"

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name+".der"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t testing.TB, name string) *Message {
	t.Helper()
	m, err := Parse(read(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func certificate(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tlv is a DER element around the parts.
func tlv(tag byte, parts ...string) string {
	var inside []byte
	for _, p := range parts {
		inside = append(inside, p...)
	}
	switch n := len(inside); {
	case n < 0x80:
		return string([]byte{tag, byte(n)}) + string(inside)
	case n < 0x100:
		return string([]byte{tag, 0x81, byte(n)}) + string(inside)
	case n < 0x10000:
		return string([]byte{tag, 0x82, byte(n >> 8), byte(n)}) + string(inside)
	default:
		return string([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}) + string(inside)
	}
}

func seq(parts ...string) string { return tlv(0x30, parts...) }

func integer(n int) string {
	der, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return string(der)
}

func utf(s string) string { return tlv(0x0c, s) }

const (
	cn     = "\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04test" // an RDN
	aName  = "\x30\x0f" + cn
	nullDN = "\xa4\x02\x30\x00"
	dirGN  = "\xa4\x11" + aName
	anAlg  = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02" // ecdsa-with-SHA256
	aKey   = "\x30\x10\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x03\x02\x00\x07"
	aCert  = "\x30\x03\x02\x01\x07" // as far as this package looks
	anExt  = "\x30\x0d\x30\x0b\x06\x03\x55\x1d\x0f\x04\x04\x03\x02\x07\x80"
	anEnv  = "\xa0\x03\x02\x01\x02" // EncryptedKey, envelopedData
	minute = "20261121123000Z"
)

var when = time.Date(2026, 11, 21, 12, 30, 0, 0, time.UTC)

// simple is a message with that body, in DER.
func simple(body string) string { return seq(header(), body) }

func header(more ...string) string {
	return seq(append([]string{integer(2), nullDN, dirGN}, more...)...)
}

// strip clears what stands for other fields, so that these are encoded.
func strip(v any) { stripValue(reflect.ValueOf(v)) }

func stripValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() && v.Type() != reflect.TypeFor[*big.Int]() {
			stripValue(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			stripValue(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[big.Int]() {
			return
		}
		for i := range v.NumField() {
			switch name := v.Type().Field(i).Name; name {
			case "Raw", "RawRequest", "RawInput", "RawHeader", "RawBody":
				v.Field(i).SetZero()
			default:
				stripValue(v.Field(i))
			}
		}
	}
}

// again encodes a parsed message anew, with its protection.
func again(t testing.TB, m *Message) []byte {
	t.Helper()
	o := Outgoing{Header: m.Header, Body: m.Body, ExtraCerts: m.ExtraCerts}
	var protect func([]byte) ([]byte, error)
	if m.Header.ProtectionAlg != nil {
		protect = func([]byte) ([]byte, error) { return m.Protection, nil }
	}
	der, err := o.Protect(protect)
	if err != nil {
		t.Fatalf("%v: %v", m.Body.Type(), err)
	}
	return der
}

// dump writes a value out to the last field: nil and empty octets differ, equal numbers and times do not.
func dump(v any) string {
	var b strings.Builder
	dumpValue(&b, reflect.ValueOf(v))
	return b.String()
}

func dumpValue(b *strings.Builder, v reflect.Value) {
	if !v.IsValid() {
		b.WriteString("nil")
		return
	}
	switch x := v.Interface().(type) {
	case *big.Int:
		fmt.Fprint(b, x)
		return
	case time.Time:
		fmt.Fprint(b, x.UTC())
		return
	case []byte:
		if x == nil {
			b.WriteString("nil")
		} else {
			fmt.Fprintf(b, "%q", x)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil")
			return
		}
		dumpValue(b, v.Elem())
	case reflect.Slice:
		b.WriteString("[")
		for i := range v.Len() {
			dumpValue(b, v.Index(i))
			b.WriteString(" ")
		}
		b.WriteString("]")
	case reflect.Struct:
		fmt.Fprintf(b, "%s{", v.Type().Name())
		for i := range v.NumField() {
			fmt.Fprintf(b, "%s:", v.Type().Field(i).Name)
			dumpValue(b, v.Field(i))
			b.WriteString(" ")
		}
		b.WriteString("}")
	default:
		fmt.Fprintf(b, "%#v", v.Interface())
	}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := dump(got), dump(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %x, want %x", what, got, want)
	}
}
