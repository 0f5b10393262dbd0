package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

// Bounds of an import.
const (
	maxEntries  = 1_000_000
	maxImport   = 1 << 30 // bytes, of all entries
	maxFailures = 100     // that are named
	toldEvery   = 200 * time.Millisecond
)

// importDevices adds many, or none: one entry a line. What is wrong with them is told of all that are.
func (s *Server) importDevices(c echo.Context) error {
	replace, err := replaceOf(c)
	if err != nil {
		return err
	}
	if err := contentType(c, ndjson); err != nil {
		return err
	}
	ctx := c.Request().Context()
	end, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer end()
	all, err := s.readEntries(ctx, http.MaxBytesReader(c.Response(), c.Request().Body, s.imported), replace)
	if err != nil {
		return err
	}
	return s.store(c, all, replace, end)
}

// readEntries reads and checks them all.
func (s *Server) readEntries(ctx context.Context, body io.Reader, replace bool) ([]*gateway.Device, error) {
	var all []*gateway.Device
	wrong := &failures{}
	now := s.config.Clock()
	lines := bufio.NewReaderSize(body, maxBody+2) // with the line's end
	for index := 0; ; {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("entry %d is larger than %d bytes", index+1, maxBody),
				failures: []ImportFailure{{index, fmt.Sprintf("larger than %d bytes", maxBody)}}}
		case err != nil && !errors.Is(err, io.EOF):
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				return nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the entries are larger than %d bytes together", s.imported)}
			}
			return nil, badRequest("the list ended early: nothing was imported")
		}
		ended := err != nil
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if index == s.entries {
				return nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("more than %d entries: import them in parts", s.entries)}
			}
			d, err := s.readEntry(ctx, text, replace, now)
			if _, ours := errors.AsType[*storeError](err); ours {
				return nil, err
			} else if err != nil {
				wrong.add(index, err.Error())
			} else if len(wrong.list) == 0 {
				all = append(all, d)
			}
			index++
		}
		if ended {
			break
		}
	}
	if len(wrong.list) > 0 {
		return nil, wrong.refusal()
	}
	if len(all) == 0 {
		return nil, badRequest("there is no entry to import")
	}
	return all, nil
}

func (s *Server) readEntry(ctx context.Context, text []byte, replace bool, now time.Time) (*gateway.Device, error) {
	var in Device
	if err := strictJSON(text, &in); err != nil {
		return nil, err
	}
	d, _, err := s.takes(ctx, &in, replace, true, now)
	return d, err
}

// failures are the entries that are wrong.
type failures struct {
	list []ImportFailure
	more int
}

func (f *failures) add(index int, why string) {
	if len(f.list) == maxFailures {
		f.more++
		return
	}
	f.list = append(f.list, ImportFailure{index, why})
}

func (f *failures) refusal() error {
	slices.SortStableFunc(f.list, func(a, b ImportFailure) int { return a.Index - b.Index })
	n := len(f.list) + f.more
	message := fmt.Sprintf("%d entries cannot be imported: nothing was", n)
	if n == 1 {
		message = "an entry cannot be imported: nothing was"
	}
	return &refusal{status: http.StatusUnprocessableEntity, message: message, failures: f.list, more: f.more}
}

// store commits the entries and tells how far it is, a line each. end is called before the last line: who reads it may go on.
func (s *Server) store(c echo.Context, all []*gateway.Device, replace bool, end func()) error {
	ctx := c.Request().Context()
	note := fmt.Sprintf("%d entries", len(all))
	if replace {
		note += ", in the place of those that stand"
	}
	event := gateway.AuditEvent{Kind: "devices-imported", At: s.config.Clock(), Actor: actorOf(c), Note: note}
	done := make(chan int, 1) // how many are stored, the newest only: the store waits for nobody
	type outcome struct {
		result ImportResult
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		added, replaced, err := s.config.Store.ImportDevices(ctx, all, replace, event, func(n int) {
			select {
			case <-done:
			default:
			}
			select {
			case done <- n:
			default:
			}
		})
		ended <- outcome{ImportResult{added, replaced}, err}
	}()
	out := json.NewEncoder(c.Response())
	tell := func(line ImportLine) {
		line.Total = len(all)
		if !c.Response().Committed {
			c.Response().Header().Set("Content-Type", ndjson)
		}
		if err := out.Encode(line); err == nil {
			c.Response().Flush()
		}
	}
	last := time.Time{}
	for {
		select {
		case n := <-done:
			if now := time.Now(); now.Sub(last) >= toldEvery {
				last = now
				tell(ImportLine{Done: n})
			}
		case o := <-ended:
			end()
			if o.err == nil {
				s.config.Log.Info(event.Kind, "added", o.result.Added, "replaced", o.result.Replaced, "actor", actorOf(c))
				tell(ImportLine{Done: len(all), Result: &o.result})
				return nil
			}
			err := conflicts(o.err)
			if !c.Response().Committed {
				return err
			}
			_, body := s.failureOf(err, c.Request().URL.Path)
			tell(ImportLine{Failure: &body})
			return nil
		}
	}
}

// conflicts is the answer to an error of the store.
func conflicts(err error) error {
	e, ok := errors.AsType[*gateway.DeviceConflictError](err)
	if !ok {
		return err
	}
	wrong := &failures{more: e.More}
	for _, one := range e.Conflicts {
		wrong.add(one.Index, one.Why)
	}
	return wrong.refusal()
}
