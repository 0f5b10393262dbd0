//go:build cas

package cas

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a DNS server, over TCP as pebble asks (RFC 1035 section 4.2.2), to which every name is 127.0.0.1, and has the TXT records that
// are files in a folder of its name.
func names(t *testing.T, txt string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for resolve(conn, txt) == nil {
				}
			}()
		}
	}()
	return l.Addr().String()
}

// resolve answers one query.
func resolve(conn net.Conn, txt string) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	q := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(conn, q); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(q); err != nil || len(m.Questions) != 1 {
		return errors.Join(err, errors.New("no query"))
	}
	asked := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	says := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: asked.Name, Class: asked.Class, TTL: 1}, Body: body})
	}
	switch asked.Type {
	case dnsmessage.TypeA:
		says(&dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}})
	case dnsmessage.TypeTXT:
		values, err := filepath.Glob(filepath.Join(txt, strings.TrimSuffix(strings.ToLower(asked.Name.String()), "."), "*"))
		if err != nil {
			return err
		}
		for _, value := range values {
			says(&dnsmessage.TXTResource{TXT: []string{filepath.Base(value)}})
		}
	}
	answer, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
	return err
}
