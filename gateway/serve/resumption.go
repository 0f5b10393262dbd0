package serve

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"time"
)

const (
	// sessionLife is for how long after the full handshake that began it a session can be resumed. crypto/tls alone would let each
	// resumption begin anew (RFC 8446 section 4.6.1 recommends a limit in all).
	sessionLife = 12 * time.Hour
	// maxTicket is how long a ticket may be. It holds the client's certificates, and comes back in the client's first message,
	// where a long one is trouble for many; one beyond 64 KiB would fail the handshake.
	maxTicket = 8 << 10
	stampName = "muster 1 " // our entry of tls.SessionState.Extra
)

// sessions lets clients resume TLS sessions (RFC 5077, RFC 8446 section 2.2) of one policy with one server certificate. Its ticket keys
// live in memory, and are those of one TLS policy: what an earlier policy, or another listener, gave out leads to a full handshake.
//
// A resumed session has the client certificate of the full handshake. That says who it is, and no more: whether it is trusted, expired
// or revoked is judged with each request, as ever.
type sessions struct {
	keys    *tls.Config   // for its ticket keys, which crypto/tls changes daily
	serving func() []byte // the server's certificate, DER
	clock   func() time.Time
}

// resumable has clients resume the sessions of cfg.
func resumable(cfg *tls.Config, serving func() []byte) {
	s := &sessions{keys: &tls.Config{Time: cfg.Time}, serving: serving, clock: cfg.Time}
	base := cfg.Clone()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.connection(base), nil }
}

// connection is the policy for one connection, which has to remember when its session began.
func (s *sessions) connection(base *tls.Config) *tls.Config {
	began := s.clock()
	c := base.Clone()
	c.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := s.keys.DecryptTicket(ticket, state)
		if session == nil || err != nil {
			return nil, err
		}
		at, ok := s.fresh(session)
		if !ok {
			return nil, nil // a full handshake
		}
		if at.Before(began) {
			began = at
		}
		return session, nil
	}
	c.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, s.stamp(began))
		ticket, err := s.keys.EncryptTicket(state, session)
		if err != nil || len(ticket) <= maxTicket {
			return ticket, err
		}
		// TLS 1.3 has begun to send one by now: one that opens nothing.
		ticket = make([]byte, 32)
		rand.Read(ticket)
		return ticket, nil
	}
	return c
}

// stamp is what a ticket holds beside the session: when that began, in Unix seconds, and the SHA-256 of the server's certificate.
func (s *sessions) stamp(began time.Time) []byte {
	sum := sha256.Sum256(s.serving())
	return append(binary.BigEndian.AppendUint64([]byte(stampName), uint64(began.Unix())), sum[:]...)
}

// fresh reads the stamp. ok: the session may be resumed now.
func (s *sessions) fresh(session *tls.SessionState) (began time.Time, ok bool) {
	for _, e := range session.Extra {
		if len(e) != len(stampName)+8+sha256.Size || !bytes.HasPrefix(e, []byte(stampName)) {
			continue
		}
		began = time.Unix(int64(binary.BigEndian.Uint64(e[len(stampName):])), 0)
		age := s.clock().Sub(began)
		return began, age > -time.Minute && age < sessionLife && bytes.Equal(e, s.stamp(began))
	}
	return time.Time{}, false
}
