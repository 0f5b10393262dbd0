package local

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

// primary keeps a ledger with several PostgreSQL servers on the one that takes writes. Each promotion begins a timeline with a higher
// number: a server on a lower one than was seen has been replaced, though it may take writes, when it comes back as it was.
type primary struct {
	hosts    []*pgx.ConnConfig // each alone, none where there is one
	timeline atomic.Int64      // the highest that was seen, 0 for none
	doubts   atomic.Int64      // commits that were acknowledged before the synchronous standby had them
}

const (
	probeTimeout = 2 * time.Second // of looking at all servers
	onTimeline   = "muster timeline"
)

// watchPrimary puts the checks into a configuration.
func watchPrimary(config *pgx.ConnConfig) *primary {
	p := &primary{}
	config.ValidateConnect = p.validate
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.File == "syncrep.c" { // its text is in the server's language
			p.doubts.Add(1)
		}
	}
	several := false
	for _, f := range config.Fallbacks {
		several = several || f.Host != config.Host || f.Port != config.Port
	}
	if !several {
		return p
	}
	config.ConnectTimeout = min(config.ConnectTimeout, postgresTimeout/3)
	// The same address comes twice where TLS is optional.
	for _, f := range append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...) {
		alone := config.Copy()
		alone.Host, alone.Port, alone.TLSConfig, alone.Fallbacks, alone.ConnectTimeout = f.Host, f.Port, f.TLSConfig, nil, probeTimeout
		p.hosts = append(p.hosts, alone)
	}
	return p
}

// validate is pgconn's ValidateConnect.
func (p *primary) validate(ctx context.Context, c *pgconn.PgConn) error {
	if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, c); err != nil {
		return err
	}
	at, err := timelineOf(ctx, c)
	if err != nil {
		return err
	}
	for {
		highest := p.timeline.Load()
		if at > 0 && at < highest {
			return fmt.Errorf("it is on timeline %d, and a primary on timeline %d was seen: it has been replaced, and must not be used until it follows that one", at, highest)
		}
		if at <= highest || p.timeline.CompareAndSwap(highest, at) {
			c.CustomData()[onTimeline] = at
			return nil
		}
	}
}

// timelineOf is that of a primary, 0 where the server does not tell.
func timelineOf(ctx context.Context, c *pgconn.PgConn) (int64, error) {
	got, err := c.Exec(ctx, `SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`).ReadAll()
	if _, refused := errors.AsType[*pgconn.PgError](err); refused || err == nil && (len(got) != 1 || len(got[0].Rows) != 1) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	at, err := strconv.ParseInt(string(got[0].Rows[0][0]), 16, 64)
	if err != nil {
		return 0, nil
	}
	return at, nil
}

// look sees the timelines of all servers that answer, before one is connected to.
func (p *primary) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, host := range p.hosts {
		wg.Go(func() {
			if c, err := pgx.ConnectConfig(ctx, host); err == nil { // validate has seen it
				_ = c.Close(ctx)
			}
		})
	}
	wg.Wait()
}

// options are what the pools need.
func (p *primary) options() []stdlib.OptionOpenDB {
	return []stdlib.OptionOpenDB{
		stdlib.OptionBeforeConnect(func(ctx context.Context, _ *pgx.ConnConfig) error { p.look(ctx); return nil }),
		stdlib.OptionResetSession(func(_ context.Context, c *pgx.Conn) error {
			if at, _ := c.PgConn().CustomData()[onTimeline].(int64); at > 0 && at < p.timeline.Load() {
				return driver.ErrBadConn
			}
			return nil
		}),
	}
}

var errUnreplicated = errors.New("PostgreSQL stopped waiting for the synchronous standby: a fail-over may lose it")

// doubt returns what tells whether a commit since then is in doubt.
func (p *primary) doubt() func() error {
	seen := p.doubts.Load()
	return func() error {
		now := p.doubts.Load()
		if now == seen {
			return nil
		}
		seen = now
		return errUnreplicated
	}
}
