package local

import (
	"context"
	"crypto"
	"math"
	"sync"
	"time"
)

// Signing in advance (`ocsp: {presign: true}`): all unexpired certificates have an answer before anybody asks, the newest
// certificates first, as many as are kept. docs/ocsp.md says when that is worth it.

const (
	aheadPage  = 500 // certificates between two looks at whether to stop
	aheadEvery = time.Minute
)

// signAhead begins it. stop ends it.
func (c *CA) signAhead(o *answers) {
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			begun := time.Now()
			if err := c.signAll(ctx, func(took time.Duration) { pause(ctx, took) }); err != nil && ctx.Err() == nil {
				c.o.Log.Warn("signing OCSP answers in advance", "err", err)
			}
			pause(ctx, max(aheadEvery, time.Since(begun))) // half of the time at most goes into it
		}
	})
	o.stop = func() { cancel(); ended.Wait() }
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// signAll signs what has no fresh answer. After each page of certificates it rests, told how long that took.
func (c *CA) signAll(ctx context.Context, rest func(took time.Duration)) error {
	for before, left := int64(math.MaxInt64), -1; before > 0 && left != 0 && ctx.Err() == nil; {
		r, err := c.running()
		if err != nil {
			return err
		}
		if left < 0 {
			left = r.ocsp.most
			r.follow(c)
		}
		begun := time.Now()
		if before, left, err = r.signPage(ctx, c, before, left); err != nil {
			return err
		}
		rest(time.Since(begun))
	}
	return ctx.Err()
}

// signPage signs for the newest unexpired certificates with a number below before, left at most. It returns the lowest number that
// it saw, 0 after the last, and how many are left.
func (r *running) signPage(ctx context.Context, c *CA, before int64, left int) (int64, int, error) {
	now := c.o.Clock().UTC().Truncate(time.Second)
	changes := r.ocsp.changes.Load()
	type row struct {
		ca     *issuer
		serial string
		status *ocspStatus
	}
	var page []row
	lowest := int64(0)
	err := func() error {
		rows, err := r.ledger.read.QueryContext(ctx, `SELECT number, issuer, serial, generation, not_after, revoked_at, reason FROM certificates
			WHERE number < $1 AND not_after >= $2 AND serial IS NOT NULL ORDER BY number DESC LIMIT $3`, before, now.Unix(), aheadPage)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var serial []byte
			s, err := scanStatus(rows, &lowest, &name, &serial)
			if err != nil {
				return err
			}
			if ca := r.issuer(name); ca != nil && name != "" {
				page = append(page, row{ca, string(serial), s})
			}
		}
		return rows.Err()
	}()
	if err != nil {
		return 0, left, err
	}
	for _, one := range page {
		by := one.ca.numbered(one.status.generation)
		if by == nil {
			continue // of another replica's making
		}
		key := r.ocspKeys.of(by)
		if key == nil || !now.Before(key.by.cert.NotAfter) {
			continue
		}
		if left == 0 {
			break
		}
		left--
		id := &certID{hash: crypto.SHA1, nameHash: key.nameHash[crypto.SHA1], keyHash: key.keyHash[crypto.SHA1], serial: one.serial}
		at := answerKey{key.id, id.hash, id.serial}
		if stands := r.ocsp.find(at); stands != nil && stands.fresh(now) && stands.status == *one.status {
			continue
		}
		if _, err := r.sign(ctx, c, key, id, nil, &answer{at: at, status: *one.status, changes: changes}, now); err != nil {
			return 0, left, err
		}
	}
	if len(page) < aheadPage {
		lowest = 0
	}
	return lowest, left, nil
}
