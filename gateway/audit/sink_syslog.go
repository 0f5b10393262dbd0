package audit

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Syslog says where a SyslogSink sends.
type Syslog struct {
	Network  string      // "tcp", "udp", "tls" or "unix"
	Address  string      // host:port, or the socket's path
	TLS      *tls.Config // tls alone
	Facility int         // 0 to 23 (RFC 5424 section 6.2.1)
	AppName  string      // at most 48 printable ASCII characters (section 6.2.5)
	Hostname string      // at most 255; the host's name when ""
	Clock    func() time.Time
}

// Facilities are those of RFC 5424 section 6.2.1 by their customary names.
var Facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"ntp": 12, "audit": 13, "alert": 14, "clock": 15,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

const (
	maxDatagram = 60 << 10
	severity    = 6                  // informational
	element     = "muster"           // the SD-ID without the number behind the @
	sdID        = element + "@32473" // RFC 5612's number for documentation: Muster has none of its own
	unsure      = 4096               // records that were handed over last, which a new connection gets again: at most so many,
	unsureFor   = 30 * time.Second   // and for so long: more than givesUp
	givesUp     = 10 * time.Second   // after which a connection ends whose peer acknowledges nothing
)

// SyslogSink sends records as messages of RFC 5424: stream, seq and hash as structured data, the line of AppendLine as MSG. Over TCP and TLS they are framed by octet
// counting (RFC 6587 section 3.4.1, RFC 5425 section 4.3), over UDP and Unix datagrams each is one (RFC 5426).
//
// Syslog acknowledges nothing. What was handed over last before a connection broke comes again over the next one; a datagram that gets lost is lost.
type SyslogSink struct {
	o     Syslog
	conn  net.Conn
	gone  *atomic.Bool // the peer of conn has closed it
	last  []handed
	again bool // the next connection gets last
}

// handed is what a connection took.
type handed struct {
	records []Record
	at      time.Time
}

// NewSyslogSink makes a sink. Nothing is connected before the first Write.
func NewSyslogSink(o Syslog) *SyslogSink {
	if o.Hostname == "" {
		o.Hostname, _ = os.Hostname()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &SyslogSink{o: o}
}

// Name is Sink.
func (s *SyslogSink) Name() string { return "syslog " + s.o.Network + "://" + s.o.Address }

func (s *SyslogSink) stream() bool { return s.o.Network == "tcp" || s.o.Network == "tls" }

// Write is Sink.
func (s *SyslogSink) Write(ctx context.Context, records []Record) error {
	if s.conn != nil && s.gone.Load() {
		s.drop()
	}
	old := s.conn
	err := s.send(ctx, records)
	if err != nil && old != nil && s.conn == nil && ctx.Err() == nil {
		err = s.send(ctx, records) // over a new connection: the old one may have ended long ago
	}
	return err
}

func (s *SyslogSink) send(ctx context.Context, records []Record) error {
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	if s.again {
		for _, batch := range s.last {
			if err := s.put(ctx, batch.records); err != nil {
				return err
			}
		}
		s.again = false
	}
	if len(records) == 0 {
		return nil
	}
	if err := s.put(ctx, records); err != nil {
		return err
	}
	if s.stream() {
		s.remember(records)
	}
	return nil
}

// remember keeps what may still be on its way. The peer's host has acknowledged what is older than givesUp, or the connection has ended.
func (s *SyslogSink) remember(records []Record) {
	now := s.o.Clock()
	s.last = append(s.last, handed{records, now})
	n := 0
	for _, b := range s.last {
		n += len(b.records)
	}
	old := 0
	for ; old < len(s.last)-1; old++ {
		if age := now.Sub(s.last[old].at); n <= unsure && age >= 0 && age <= unsureFor {
			break
		}
		n -= len(s.last[old].records)
	}
	s.last = slices.Delete(s.last, 0, old)
}

// put hands records to the connection, which it gives up where that fails.
func (s *SyslogSink) put(ctx context.Context, records []Record) (err error) {
	deadline, _ := ctx.Deadline() // zero: none
	defer func() {
		if err != nil {
			s.drop()
		}
	}()
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	conn := s.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })()
	var out []byte
	for _, r := range records {
		m := s.message(r)
		if !s.stream() {
			m = m[:min(len(m), maxDatagram)] // RFC 5424 section 6.1: what is too long is cut off
			if _, err := s.conn.Write(m); err != nil {
				return err
			}
			continue
		}
		out = append(append(strconv.AppendInt(out, int64(len(m)), 10), ' '), m...)
	}
	if len(out) == 0 {
		return nil
	}
	_, err = s.conn.Write(out)
	return err
}

// message is a record as a message of RFC 5424 section 6: <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [SD] MSG. The time is that of its sending, the
// event's own stands in it; MSG is UTF-8 without a byte order mark, as JSON has none.
func (s *SyslogSink) message(r Record) []byte {
	b := fmt.Appendf(nil, "<%d>1 %s %s %s %d audit [%s stream=\"%s\" seq=\"%d\" hash=\"%s\"] ", s.o.Facility*8+severity,
		s.o.Clock().UTC().Format("2006-01-02T15:04:05.000000Z"), printable(s.o.Hostname, 255), printable(s.o.AppName, 48), os.Getpid(), sdID,
		paramValue.Replace(r.Stream), r.Seq, hex.EncodeToString(r.Hash))
	b = AppendLine(b, r)
	return b[:len(b)-1] // without the end of the line
}

// paramValue escapes a PARAM-VALUE (RFC 5424 section 6.3.3).
var paramValue = strings.NewReplacer(`"`, `\"`, `\`, `\\`, `]`, `\]`)

// printable is a field of the header: PRINTUSASCII, "-" for none.
func printable(text string, longest int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), longest)]
}

func (s *SyslogSink) connect(ctx context.Context) (err error) {
	d := net.Dialer{Control: giveUp}
	switch s.o.Network {
	case "tls":
		s.conn, err = (&tls.Dialer{NetDialer: &d, Config: s.o.TLS}).DialContext(ctx, "tcp", s.o.Address)
	case "unix":
		s.conn, err = d.DialContext(ctx, "unixgram", s.o.Address)
	default:
		s.conn, err = d.DialContext(ctx, s.o.Network, s.o.Address)
	}
	if err != nil {
		s.conn = nil // not a nil pointer in an interface
		return err
	}
	s.gone = &atomic.Bool{}
	if s.stream() {
		go watchEnd(s.conn, s.gone)
	}
	return nil
}

// watchEnd notices that the peer closes a connection, over which it has nothing to say (RFC 5425 section 4.4, RFC 6587 section 3.4.3): what is written
// afterwards would be lost without an error.
func watchEnd(conn net.Conn, gone *atomic.Bool) {
	_, _ = io.Copy(io.Discard, conn)
	gone.Store(true)
}

// drop gives the connection up.
func (s *SyslogSink) drop() {
	_ = s.conn.Close()
	s.conn, s.again = nil, true
}

// Close is Sink.
func (s *SyslogSink) Close() error {
	if s.conn == nil {
		return nil
	}
	conn := s.conn
	s.conn = nil
	if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
