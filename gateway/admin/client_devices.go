package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
)

// DeviceQuery selects devices; its zero value selects the first 100 by name.
type DeviceQuery struct {
	Vendor   string
	Prefix   string // of the name
	Disabled *bool
	After    string // name: only later ones
	Limit    int    // 0: 100; at most 1000
}

// ImportError says why an import was refused: entry by entry. Nothing was imported.
type ImportError struct {
	Err      *Error
	Failures []ImportFailure // at most 100, by index
	More     int             // further ones
}

func (e *ImportError) Error() string { return e.Err.Message }

// Unwrap returns Err.
func (e *ImportError) Unwrap() error { return e.Err }

func devicePath(name string) string { return "/v1/devices/" + url.PathEscape(name) }

// AddDevice adds an entry, with replace in the place of one that stands under its name. The answer has Password where one was
// to be generated. Errors as Transactions; *Error has status 409 when the name or an identifier is taken.
func (c *Client) AddDevice(ctx context.Context, d Device, replace bool) (*Device, error) {
	out := &Device{}
	return out, c.post(ctx, "/v1/devices", values("replace", yes(replace)), d, out)
}

// Device returns one by its name or one of its identifiers. Errors as Transactions; *Error has status 404 when there is none
// and 409, with candidates, when it is an identifier of two.
func (c *Client) Device(ctx context.Context, nameOrIdentifier string) (*Device, error) {
	out := &Device{}
	return out, c.get(ctx, devicePath(nameOrIdentifier), nil, out)
}

// Devices lists entries by name. Errors as Transactions.
func (c *Client) Devices(ctx context.Context, q DeviceQuery) (*DeviceList, error) {
	v := values("vendor", q.Vendor, "prefix", q.Prefix, "after", q.After, "limit", count(q.Limit))
	if q.Disabled != nil {
		v.Set("disabled", strconv.FormatBool(*q.Disabled))
	}
	out := &DeviceList{}
	return out, c.get(ctx, "/v1/devices", v, out)
}

// DropDevice takes an entry away, by its whole name; its certificates stay. Errors as Transactions; *Error has status 404
// when there is none.
func (c *Client) DropDevice(ctx context.Context, name string) (*Device, error) {
	out := &Device{}
	return out, c.do(ctx, http.MethodDelete, devicePath(name), nil, nil, out)
}

// SetDeviceDisabled disables an entry or takes that back, by its whole name. Errors as DropDevice.
func (c *Client) SetDeviceDisabled(ctx context.Context, name string, disabled bool) (*Device, error) {
	out := &Device{}
	return out, c.post(ctx, devicePath(name)+"/state", nil, DeviceState{Disabled: disabled}, out)
}

// ResetDevice sets a device's enrollments back to none and makes its one-time password good again. Errors as DropDevice.
func (c *Client) ResetDevice(ctx context.Context, name string) (*Device, error) {
	out := &Device{}
	return out, c.do(ctx, http.MethodPost, devicePath(name)+"/reset", nil, nil, out)
}

// ImportDevices adds all entries, or none. progress, nil for none, is told how many are stored. Errors are *ImportError,
// whose indices are those of devices, and those of Transactions. It ends when ctx does, and not before.
func (c *Client) ImportDevices(ctx context.Context, devices []Device, replace bool, progress func(done, total int)) (*ImportResult, error) {
	r, w := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(w, 64<<10)
		lines := json.NewEncoder(b)
		for i := range devices {
			if err := lines.Encode(&devices[i]); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		w.CloseWithError(b.Flush())
	}()
	defer r.Close() // ends the writer, however this ends
	body := &begun{Reader: r}
	resp, err := c.send(ctx, http.MethodPost, "/v1/devices/import", values("replace", yes(replace)), body, ndjson)
	if _, answered := errors.AsType[*Error](err); err != nil && !answered && body.begun.Load() && ctx.Err() == nil {
		return nil, fmt.Errorf("%s: the connection broke off: whether the devices were imported is not known", c.where)
	} else if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	for {
		var line ImportLine
		switch err := lines.Decode(&line); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, fmt.Errorf("%s: the answer ended early: whether the devices were imported is not known", c.where)
		case err != nil:
			return nil, fmt.Errorf("%s: whether the devices were imported is not known: %w", c.where, err)
		case line.Failure != nil:
			return nil, errorOf(http.StatusUnprocessableEntity, line.Failure)
		case line.Result != nil:
			return line.Result, nil
		case progress != nil:
			progress(line.Done, line.Total)
		}
	}
}

// begun is a body that knows whether it was asked for: there was a connection then.
type begun struct {
	io.Reader
	begun atomic.Bool
}

func (b *begun) Read(p []byte) (int, error) {
	b.begun.Store(true)
	return b.Reader.Read(p)
}

// ndjson is the media type of one JSON value a line.
const ndjson = "application/x-ndjson"

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}
