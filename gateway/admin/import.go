package admin

import (
	"bufio"
	"bytes"
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
	uploadIdle  = 30 * time.Second // without a byte of the list: others wait to import
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
	next, err := turn(ctx, s.importing)
	if err != nil {
		return err
	}
	defer next()
	conn := http.NewResponseController(c.Response())
	all, kept, wrong, err := s.readEntries(steady{http.MaxBytesReader(c.Response(), c.Request().Body, s.imported), conn})
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(importTimeout + askTimeout))
	}
	if err != nil {
		return err
	}
	// From here on the client has said everything: who changes a single device waits for the store alone.
	end, err := turn(ctx, s.changing)
	if err != nil {
		return err
	}
	defer end()
	for _, k := range kept {
		err := s.keep(ctx, k, replace)
		if _, ours := errors.AsType[*storeError](err); ours {
			return err
		} else if err != nil {
			wrong.add(k.index, err.Error())
		}
	}
	if len(wrong.list) > 0 {
		return wrong.refusal()
	}
	if len(all) == 0 {
		return badRequest("there is no entry to import")
	}
	return s.store(c, all, replace, func() { end(); next() })
}

// steady is a body that must not stand still.
type steady struct {
	body io.Reader
	conn *http.ResponseController
}

func (s steady) Read(p []byte) (int, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(uploadIdle)); err != nil {
		return 0, err
	}
	return s.body.Read(p)
}

// readEntries reads and checks them all. wrong has those that are, kept those that what stands has to be added to.
func (s *Server) readEntries(body io.Reader) (all []*gateway.Device, kept []keeping, wrong *failures, err error) {
	wrong = &failures{}
	now := s.config.Clock()
	lines := bufio.NewReaderSize(body, maxBody+2) // with the line's end
	for index := 0; ; {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, nil, nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("entry %d is larger than %d bytes", index+1, maxBody),
				failures: []ImportFailure{{index, fmt.Sprintf("larger than %d bytes", maxBody)}}}
		case err != nil && !errors.Is(err, io.EOF):
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				return nil, nil, nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the entries are larger than %d bytes together", s.imported)}
			}
			return nil, nil, nil, badRequest("the list ended early, or stood still for %d s: nothing was imported", uploadIdle/time.Second)
		}
		ended := err != nil
		if text = bytes.TrimSpace(text); len(text) > 0 {
			if index == s.entries {
				return nil, nil, nil, &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("more than %d entries: import them in parts", s.entries)}
			}
			var in Device
			var d *gateway.Device
			err := strictJSON(text, &in)
			if err == nil {
				d, _, err = s.takes(&in, true, now)
			}
			if err != nil {
				wrong.add(index, err.Error())
			} else {
				if len(wrong.list) == 0 {
					all = append(all, d)
				}
				if k, some := keepingOf(index, d, &in); some {
					kept = append(kept, k)
				}
			}
			index++
		}
		if ended {
			return all, kept, wrong, nil
		}
	}
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
