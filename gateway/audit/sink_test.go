package audit

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func chained(n int) (list []Record) {
	prev := Genesis()
	for i := range n {
		r := Record{Stream: `o"n]e`, Seq: int64(i + 1), Prev: prev, Body: `{"kind":"test"}`}
		r.Hash = Link(r.Stream, r.Seq, r.Prev, r.Body)
		list, prev = append(list, r), r.Hash
	}
	return list
}

func linesOf(t *testing.T, paths ...string) (list []Record) {
	t.Helper()
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = ReadLines(f, path, func(*Export) error { return nil }, func(r Record) error { list = append(list, r); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// TestFileSink: it is read by nobody else, survives being moved away, and takes away what a crash cut off.
func TestFileSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	records, ctx := chained(6), context.Background()
	s := NewFileSink(path)
	if err := s.Write(ctx, records[:2]); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := NewFileSink(path).Write(ctx, records); err == nil {
		t.Error("two processes write one file")
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(ctx, records[2:4]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Repeat("x", 100<<10)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Write(ctx, records[4:]); err != nil {
		t.Fatal(err)
	}
	if got := linesOf(t, path+".1", path); len(got) != 6 || !bytes.Equal(got[5].Hash, records[5].Hash) {
		t.Errorf("it has %d records", len(got))
	}
	v := NewVerifier(Trust{})
	for _, r := range linesOf(t, path+".1", path) {
		v.Add(r)
	}
	if faults := v.Report().Faults(); len(faults) > 0 {
		t.Errorf("%v", faults)
	}
}

// TestFileSinkFull: a disk that is full is an error, each time.
func TestFileSinkFull(t *testing.T) {
	s := NewFileSink("/dev/full")
	for range 2 {
		if err := s.Write(context.Background(), chained(1)); err == nil {
			t.Error("/dev/full takes records")
		}
	}
	if err := NewFileSink(filepath.Join(t.TempDir(), "none", "x")).Write(context.Background(), nil); err == nil {
		t.Error("a file in no folder can be written")
	}
}

// message5424 is a message as RFC 5424 section 6 has it, with the structured data of ours.
var message5424 = regexp.MustCompile(`^<(\d{1,3})>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} ` +
	`\[[!-~]{1,32} stream="((?:[^"\\\]]|\\["\\\]])*)" seq="(\d+)" hash="([0-9a-f]{64})"\] (\{.*\})$`)

// octets reads one frame of RFC 6587 section 3.4.1.
func octets(r *bufio.Reader) (string, error) {
	n, err := r.ReadString(' ')
	if err != nil {
		return "", err
	}
	size, err := strconv.Atoi(strings.TrimSuffix(n, " "))
	if err != nil || n[0] == '0' {
		return "", err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

// TestSyslogSink: each record is one message, over TCP in order; what came last before the peer went comes again.
func TestSyslogSink(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := NewSyslogSink(Syslog{Network: "tcp", Address: l.Addr().String(), Facility: 13, AppName: "muster",
		Clock: func() time.Time { return time.Unix(1, 0) }})
	ctx, records := context.Background(), chained(3)
	if err := s.Write(ctx, records[:1]); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	read := func(conn net.Conn, seq string) {
		t.Helper()
		m, err := octets(bufio.NewReader(conn))
		parts := message5424.FindStringSubmatch(m)
		if err != nil || parts == nil || parts[1] != "110" || parts[2] != `o\"n\]e` || parts[3] != seq {
			t.Fatalf("%q, %v", m, err)
		}
		if r := AppendLine(nil, records[atoi(seq)-1]); parts[5]+"\n" != string(r) {
			t.Errorf("%s", parts[5])
		}
	}
	read(conn, "1")
	conn.Close()
	for !s.gone.Load() {
		time.Sleep(time.Millisecond)
	}
	if err := s.Write(ctx, records[1:2]); err != nil {
		t.Fatal(err)
	}
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, want := range []string{"1", "2"} {
		m, err := octets(r)
		if parts := message5424.FindStringSubmatch(m); err != nil || parts == nil || parts[3] != want {
			t.Errorf("%q, %v", m, err)
		}
	}
	l.Close()
	conn.Close()
	for !s.gone.Load() {
		time.Sleep(time.Millisecond)
	}
	if err := s.Write(ctx, nil); err == nil {
		t.Error("nobody listens, and it is well")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }
