package store

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

// primary finds the one of several PostgreSQL servers that takes writes, and keeps away from one that was it before. Each promotion begins
// a timeline with a higher number, so whatever is on a lower one than was seen has been replaced, though it may take writes itself (a primary
// that comes back after a fail-over, as it was).
type primary struct {
	servers  []*pgx.ConnConfig // each host alone
	timeline atomic.Int64      // the highest that was seen; 0: none
	last     atomic.Pointer[pgx.ConnConfig]
}

const (
	leaveTimeout    = 100 * time.Millisecond
	connectTimeouts = 3 // that many fit into postgresTimeout, where there are several servers
	onTimeline      = "muster timeline"
)

// probeTimeout is that of looking which server is the primary.
var probeTimeout = 2 * time.Second

func newPrimary(config *pgx.ConnConfig) *primary {
	p := &primary{}
	all := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for i, f := range all {
		// What follows with the same address is the same server without TLS, or with it.
		if i > 0 && f.Host == all[i-1].Host && f.Port == all[i-1].Port {
			alone := p.servers[len(p.servers)-1]
			alone.Fallbacks = append(alone.Fallbacks, f)
			continue
		}
		alone := config.Copy()
		alone.Fallbacks = nil
		alone.Host, alone.Port, alone.TLSConfig = f.Host, f.Port, f.TLSConfig
		alone.ConnectTimeout, alone.ValidateConnect = probeTimeout, p.validate
		p.servers = append(p.servers, alone)
	}
	return p
}

// connectTimeout is for one server.
func (p *primary) connectTimeout() time.Duration {
	if len(p.servers) > 1 {
		return postgresTimeout / connectTimeouts
	}
	return postgresTimeout
}

// validate is pgconn's ValidateConnect: it takes a server that takes writes, and whose timeline is none that was left.
func (p *primary) validate(ctx context.Context, c *pgconn.PgConn) error {
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

// find looks at all servers at once, and has the one on the highest timeline connected to. Where none answers in time, each is tried.
func (p *primary) find(ctx context.Context, c *pgx.ConnConfig) error {
	if len(p.servers) < 2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
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
		return p.prefer(ctx, c)
	}
	return nil
}

// options are what a pool of sessions needs, with what finds the server for a new one.
func (p *primary) options(before func(context.Context, *pgx.ConnConfig) error) []stdlib.OptionOpenDB {
	return []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(before), stdlib.OptionResetSession(p.reset), stdlib.OptionShouldPing(p.ping)}
}

// prefer has the server tried first that was the primary when the writer last looked.
func (p *primary) prefer(_ context.Context, c *pgx.ConnConfig) error {
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

// reset has the pool forget sessions on a timeline that was left, and those that do not answer.
func (p *primary) reset(ctx context.Context, c *pgx.Conn) error {
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
func (p *primary) left(c *pgx.Conn) bool {
	at, _ := c.PgConn().CustomData()[onTimeline].(int64)
	return at > 0 && at < p.timeline.Load()
}

// ping asks a session that was idle whether it is alive, in place of the driver, which would wait for a server that does not answer as long as
// the transaction may take. See reset.
func (p *primary) ping(ctx context.Context, s stdlib.ShouldPingParams) bool {
	if len(p.servers) < 2 {
		return s.IdleDuration > time.Second
	}
	if s.IdleDuration > time.Second && !p.left(s.Conn) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		_ = s.Conn.Ping(ctx) // a session that does not answer is closed
	}
	return false
}

// unreplicated notices a COMMIT that PostgreSQL acknowledges before the synchronous standby has it: it was cancelled while it waited, by an
// operator or by statement_timeout, and is told so by a warning alone.
func unreplicated() (pgconn.NoticeHandler, func() error) {
	var told atomic.Bool
	notice := func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.File == "syncrep.c" { // its text is in the server's language
			told.Store(true)
		}
	}
	return notice, func() error {
		if told.Swap(false) {
			return errors.New("PostgreSQL stopped waiting for the synchronous standby: a fail-over may lose it")
		}
		return nil
	}
}
