package admin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// Client asks a gateway's admin API, over its Unix socket or over TLS.
type Client struct {
	where string // as errors name it
	base  string // of URLs
	token string
	http  *http.Client
}

// ErrNotRunning is returned when nobody answers there.
var ErrNotRunning = errors.New("no gateway answers")

// Error is an answer of the API that is not a success.
type Error struct {
	Status     int    // of HTTP
	Message    string // in plain words
	Candidates []string
}

func (e *Error) Error() string { return e.Message }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// NewClient makes a Client of the gateway whose socket is at path.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("the path has %d bytes, a socket's may have %d", len(path), maxSocketPath)
		}
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	// The host is for the form only: the connection goes to the socket.
	return &Client{where: "admin socket " + path, base: "http://muster", http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// TransactionQuery selects transactions; its zero value selects the newest 100 of the store.
type TransactionQuery struct {
	States    []string
	Endpoint  string
	Device    string
	Before    string // ID: only older ones
	Limit     int    // 0: 100; at most 1000
	Strangers bool   // add refusals that are kept in memory only
}

// CertificateQuery selects certificates; its zero value selects the newest 100.
type CertificateQuery struct {
	Device    string
	Requester string
	Valid     bool   // neither expired nor revoked now
	Before    string // ID of a transaction: only older ones
	Limit     int    // 0: 100; at most 1000
}

// Transactions lists transactions. Errors are ErrNotRunning, *Error and those of the connection.
func (c *Client) Transactions(ctx context.Context, q TransactionQuery) (*TransactionList, error) {
	v := values("state", strings.Join(q.States, ","), "endpoint", q.Endpoint, "device", q.Device, "before", q.Before, "limit", count(q.Limit))
	if q.Strangers {
		v.Set("refused", "recent")
	}
	out := &TransactionList{}
	return out, c.get(ctx, "/v1/transactions", v, out)
}

// Certificates lists certificates. Errors as Transactions.
func (c *Client) Certificates(ctx context.Context, q CertificateQuery) (*CertificateList, error) {
	v := values("device", q.Device, "requester", q.Requester, "before", q.Before, "limit", count(q.Limit))
	if q.Valid {
		v.Set("valid", "now")
	}
	out := &CertificateList{}
	return out, c.get(ctx, "/v1/certificates", v, out)
}

// Explain returns one transaction by its ID, or by at least 6 characters of its beginning or end. Errors as
// Transactions; *Error has status 404 when there is none and 409, with candidates, when there are several.
func (c *Client) Explain(ctx context.Context, id string) (*Transaction, error) {
	out := &Transaction{}
	return out, c.get(ctx, "/v1/transactions/"+url.PathEscape(id), nil, out)
}

// Status says how the gateway fares. Errors as Transactions.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := &Status{}
	return out, c.get(ctx, "/v1/status", nil, out)
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// AddSecret gives a device its shared secret. Errors as Transactions; *Error has status 409 when there is one already.
func (c *Client) AddSecret(ctx context.Context, s NewSecret) (*Secret, error) {
	out := &Secret{}
	return out, c.post(ctx, "/v1/secrets", nil, s, out)
}

// DropSecret takes one away. Errors as Transactions; *Error has status 404 when there is none.
func (c *Client) DropSecret(ctx context.Context, endpoint string, reference []byte) (*Secret, error) {
	out := &Secret{}
	v := values("endpoint", endpoint, "reference", base64.RawURLEncoding.EncodeToString(reference))
	return out, c.do(ctx, http.MethodDelete, "/v1/secrets", v, nil, out)
}

// Secrets lists those of an endpoint ("" for all), at most limit (0: 100) after what an earlier list gave as Next.
// Errors as Transactions.
func (c *Client) Secrets(ctx context.Context, endpoint, after string, limit int) (*SecretList, error) {
	out := &SecretList{}
	return out, c.get(ctx, "/v1/secrets", values("endpoint", endpoint, "after", after, "limit", count(limit)), out)
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	return c.do(ctx, http.MethodGet, path, q, nil, into)
}

// post sends a body and decodes the answer.
func (c *Client) post(ctx context.Context, path string, q url.Values, send, into any) error {
	body, err := json.Marshal(send)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, q, bytes.NewReader(body), into)
}

// do makes one call, whose answer is decoded; nil into for none, *[]byte for the answer as it is.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, send io.Reader, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, q, send, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", c.where, err)
	case len(body) > maxAnswer:
		return fmt.Errorf("%s: the answer is larger than %d bytes", c.where, maxAnswer)
	}
	if raw, ok := into.(*[]byte); ok {
		*raw = body
		return nil
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s: not an answer of this version's API: %w", c.where, err)
	}
	return nil
}

// callTimeout is more than the server takes for any one call.
const callTimeout = longTimeout + askTimeout

// send makes one call and returns the answer, whose status is a success, with its body to be read.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, send io.Reader, kind string) (*http.Response, error) {
	address := c.base + path
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, send)
	if err != nil {
		return nil, err
	}
	if send != nil {
		req.Header.Set("Content-Type", kind)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	switch {
	case err == nil:
	case refused(err), errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w on %s", ErrNotRunning, c.where)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: only the user that runs the gateway may open it", c.where)
	default:
		return nil, fmt.Errorf("%s: %w", c.where, unwrapURL(err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFailure))
	var f Failure
	if err != nil || json.Unmarshal(body, &f) != nil || f.Error == "" {
		f = Failure{Error: fmt.Sprintf("%s: HTTP status %d", c.where, resp.StatusCode)}
	}
	return nil, errorOf(resp.StatusCode, &f)
}

// maxFailure is more than the body of an error has.
const maxFailure = 1 << 20

// errorOf is the error of an answer that is none, an *ImportError where it lists entries.
func errorOf(status int, f *Failure) error {
	e := &Error{Status: status, Message: f.Error, Candidates: f.Candidates}
	if len(f.Failures) > 0 {
		return &ImportError{Err: e, Failures: f.Failures, More: f.More}
	}
	return e
}

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// unwrapURL takes off the address that http.Client puts before its errors.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
