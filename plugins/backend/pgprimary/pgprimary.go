// Package pgprimary keeps database/sql pools on the one of several PostgreSQL servers that takes writes, and tells of commits that a
// fail-over may lose. It is not a fail-over: promoting a standby is for whoever runs the servers. The gateway's store and the ledger of the
// local CA use it.
package pgprimary

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// Primary finds the one of several PostgreSQL servers that takes writes, and keeps away from one that was it before. Each promotion begins
// a timeline with a higher number, so whatever is on a lower one than was seen has been replaced, though it may take writes itself (a primary
// that comes back after a fail-over, as it was).
type Primary struct {
	servers  []*pgx.ConnConfig // each host alone
	probe    time.Duration     // of looking which server is the primary
	timeline atomic.Int64      // the highest that was seen; 0: none
	last     atomic.Pointer[pgx.ConnConfig]
	doubts   atomic.Int64 // commits that were acknowledged before the synchronous standby had them
}

const (
	leaveTimeout = 100 * time.Millisecond
	connects     = 3 // that many fit into a transaction's time, where there are several servers
	probes       = 5
	onTimeline   = "muster timeline"
)

// Watch puts the checks into a configuration from which pools or sessions are made later. timeout is that of one transaction, connecting
// included.
func Watch(config *pgx.ConnConfig, timeout time.Duration) *Primary {
	p := &Primary{probe: timeout / probes}
	config.ValidateConnect = p.validate
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.File == "syncrep.c" { // its text is in the server's language
			p.doubts.Add(1)
		}
	}
	all := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for i, f := range all {
		// What follows with the same address is the same server without TLS, or with it.
		if i > 0 && f.Host == all[i-1].Host && f.Port == all[i-1].Port {
			alone := p.servers[len(p.servers)-1]
			alone.Fallbacks = append(alone.Fallbacks, f)
			continue
		}
		alone := config.Copy()
		alone.Host, alone.Port, alone.TLSConfig, alone.Fallbacks, alone.ConnectTimeout = f.Host, f.Port, f.TLSConfig, nil, p.probe
		p.servers = append(p.servers, alone)
	}
	if config.ConnectTimeout == 0 { // for each server
		config.ConnectTimeout = timeout
		if len(p.servers) > 1 {
			config.ConnectTimeout = timeout / connects
		}
	}
	return p
}

// validate is pgconn's ValidateConnect: it takes a server that takes writes, and whose timeline is none that was left.
func (p *Primary) validate(ctx context.Context, c *pgconn.PgConn) error {
	at, err := timelineOf(ctx, c)
	if err != nil {
		return err
	}
	for {
		highest := p.timeline.Load()
		if at < highest && at > 0 {
			return fmt.Errorf("it is on timeline %d, and a primary on timeline %d was seen: it has been replaced, and must not be used until it follows that one (if it is to be the primary, restart the gateway)", at, highest)
		}
		if at <= highest || p.timeline.CompareAndSwap(highest, at) {
			c.CustomData()[onTimeline] = at
			return nil
		}
	}
}

// timelineOf is that of a primary, 0 where the server does not tell; it fails on one that takes no writes.
func timelineOf(ctx context.Context, c *pgconn.PgConn) (int64, error) {
	got, err := c.Exec(ctx, `SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`).ReadAll()
	if _, refused := errors.AsType[*pgconn.PgError](err); refused || err == nil && (len(got) != 1 || len(got[0].Rows) != 1) {
		return 0, pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, c)
	}
	if err != nil {
		return 0, err
	}
	if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, c); err != nil {
		return 0, err
	}
	at, err := strconv.ParseInt(string(got[0].Rows[0][0]), 16, 64)
	if err != nil {
		return 0, nil
	}
	return at, nil
}

// Find looks at all servers at once, and has c try the one on the highest timeline first. Where none answers in time, each is tried.
func (p *Primary) Find(ctx context.Context, c *pgx.ConnConfig) error {
	if len(p.servers) < 2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.probe)
	defer cancel()
	var wg sync.WaitGroup
	timelines := make([]int64, len(p.servers))
	for i, s := range p.servers {
		wg.Go(func() {
			timelines[i] = -1
			conn, err := pgx.ConnectConfig(ctx, s)
			if err != nil {
				return
			}
			timelines[i], _ = conn.PgConn().CustomData()[onTimeline].(int64)
			_ = conn.Close(ctx)
		})
	}
	wg.Wait()
	best := -1
	for i, at := range timelines {
		if at >= 0 && (best < 0 || at > timelines[best]) {
			best = i
		}
	}
	if best >= 0 {
		p.last.Store(p.servers[best])
		return p.Prefer(ctx, c)
	}
	return nil
}

// Prefer has c try the server first that was the primary when Find last looked.
func (p *Primary) Prefer(_ context.Context, c *pgx.ConnConfig) error {
	last := p.last.Load()
	if last == nil {
		return nil
	}
	first := append([]*pgconn.FallbackConfig(nil), last.Fallbacks...)
	for _, s := range p.servers {
		if s != last {
			first = append(append(first, &pgconn.FallbackConfig{Host: s.Host, Port: s.Port, TLSConfig: s.TLSConfig}), s.Fallbacks...)
		}
	}
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = last.Host, last.Port, last.TLSConfig, first
	return nil
}

// Options are what a pool of sessions needs. before, Find or Prefer, says which server a new one tries first.
func (p *Primary) Options(before func(context.Context, *pgx.ConnConfig) error) []stdlib.OptionOpenDB {
	return []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(before), stdlib.OptionResetSession(p.reset), stdlib.OptionShouldPing(p.ping)}
}

// reset has the pool forget sessions on a timeline that was left, and those that do not answer.
func (p *Primary) reset(ctx context.Context, c *pgx.Conn) error {
	if p.left(c) {
		// Here, since database/sql would give a server that does not answer 5 s to take leave, with the next caller waiting.
		ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		_ = c.Close(ctx)
	}
	if c.IsClosed() {
		return driver.ErrBadConn
	}
	return nil
}

// left reports whether a session is on a timeline that was left.
func (p *Primary) left(c *pgx.Conn) bool {
	at, _ := c.PgConn().CustomData()[onTimeline].(int64)
	return at > 0 && at < p.timeline.Load()
}

// ping asks a session that was idle whether it is alive, in place of the driver, which would wait for a server that does not answer as long as
// the transaction may take. See reset.
func (p *Primary) ping(ctx context.Context, s stdlib.ShouldPingParams) bool {
	if len(p.servers) < 2 {
		return s.IdleDuration > time.Second
	}
	if s.IdleDuration > time.Second && !p.left(s.Conn) {
		ctx, cancel := context.WithTimeout(ctx, p.probe)
		defer cancel()
		_ = s.Conn.Ping(ctx) // a session that does not answer is closed
	}
	return false
}

var errUnreplicated = errors.New("PostgreSQL stopped waiting for the synchronous standby: a fail-over may lose it")

// Doubt returns what tells whether PostgreSQL has since then, or since it was last asked, acknowledged a COMMIT before the synchronous
// standby had it: it was cancelled while it waited, by an operator or by statement_timeout, and said so by a warning alone. It counts the
// commits of all sessions, so that what it says may be of another caller's.
func (p *Primary) Doubt() func() error {
	var seen atomic.Int64
	seen.Store(p.doubts.Load())
	return func() error {
		if now := p.doubts.Load(); seen.Swap(now) != now {
			return errUnreplicated
		}
		return nil
	}
}
