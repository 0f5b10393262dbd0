package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// How a replica follows another one, which has made the next generation of a CA: as soon as the generation's folder is here, since
// an operator has copied it or the folder authority is shared, it counts. Until then nothing is issued by the one before.

// halfSuffix ends the name of a generation's folder that is complete, and not yet, or perhaps not, in the ledger that is shared.
const halfSuffix = ".new"

func (r *running) authorityDir() string { return filepath.Join(r.full.Dir, authorityDir) }

// successor says what is missing when the newest generation that is known here issues no more.
func (r *running) successor(i *issuer) *missingError {
	return &missingError{dir: r.authorityDir(), ca: i.name, number: i.number + 1}
}

// follow reads the authority again when the generation is there, and puts it in force. r is what the caller saw.
func (c *CA) follow(ctx context.Context, r *running, missing *missingError) error {
	there, err := exists(missing.path())
	if err == nil && !there {
		err = missing
	}
	if err != nil {
		return err
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	c.issuing.Lock()
	defer c.issuing.Unlock()
	now, err := c.running()
	if err != nil || now.generation(missing.ca, missing.number) != nil {
		return err
	}
	next, err := c.read(context.WithoutCancel(ctx), now)
	if err != nil {
		return err
	}
	c.open.Store(next)
	c.o.Log.Info("a new generation of a CA, of another replica's making", "folder", missing.path())
	return nil
}

// caughtUp returns what follows on r when the ledger, shared, knows of generations that r does not; r when that is all.
func (c *CA) caughtUp(ctx context.Context, r *running) (*running, error) {
	known, err := r.ledger.generations(ctx)
	if err != nil {
		return r, err
	}
	for id := range known {
		if r.generation(id.ca, id.number) != nil {
			continue
		}
		if err := c.follow(ctx, r, &missingError{dir: r.authorityDir(), ca: id.ca, number: id.number}); err != nil {
			return r, err
		}
		return c.running()
	}
	return r, nil
}

// finishHalf ends what a crash or a lost answer has interrupted between a generation's folder and the ledger that is shared: a
// folder that the ledger has the certificate of gets its name, another one goes.
func (l *ledger) finishHalf(ctx context.Context, dir string) error {
	halves, err := filepath.Glob(filepath.Join(dir, "*"+halfSuffix))
	if err != nil || len(halves) == 0 {
		return err
	}
	claimed := map[string]bool{}
	for _, table := range []string{"generations", "announced"} {
		rows, err := l.read.QueryContext(ctx, `SELECT hash FROM `+table+` WHERE hash IS NOT NULL`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var hash []byte
			if err := rows.Scan(&hash); err != nil {
				return errors.Join(err, rows.Close())
			}
			claimed[table+string(hash)] = true
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
	for _, half := range halves {
		text, err := os.ReadFile(filepath.Join(half, issuingFile))
		if err != nil {
			return err
		}
		path, table := strings.TrimSuffix(half, halfSuffix), "generations"
		if strings.HasSuffix(path, announcedSuffix) {
			table = "announced"
		}
		if claimed[table+string(hashOf(text))] {
			err = finishDir(path, half)
		} else {
			err = os.RemoveAll(half)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putGeneration gives an unfinished folder its name, path. In a ledger that is shared the generation is claimed before: it fails
// with errMadeElsewhere, and leaves nothing, when another replica has made it.
func (l *ledger) putGeneration(ctx context.Context, unfinished, path string, id generationID, certificate []byte, announced bool) error {
	if !l.shared {
		return finishDir(path, unfinished)
	}
	half := path + halfSuffix
	if err := finishDir(half, unfinished); err != nil {
		return err
	}
	err := l.claimGeneration(ctx, id, hashOf(certificate), announced)
	if errors.Is(err, errMadeElsewhere) {
		return errors.Join(fmt.Errorf("%w: generation %d of CA %s is made or announced there already: copy what is in its folder %s and not here (0700, the keys in it 0600)",
			errMadeElsewhere, id.number, id.ca, authorityDir), os.RemoveAll(half))
	}
	if err != nil {
		return err // it may be claimed: finishHalf finds out
	}
	return finishDir(path, half)
}
