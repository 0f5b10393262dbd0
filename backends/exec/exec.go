// Package exec is the backend for a CA that has only a command line: a script or program for each operation, with JSON on its stdin and
// stdout (docs/backends/exec.md). It keeps nothing of its own: what the scripts say is all that it knows.
//
// Exactly once is the scripts' to keep, and this package's not to spoil: a refusal is definite only when a command says so, in an answer
// that is understood whole, and ends with 0. A time-out, a signal, another exit code and garbage leave the outcome unknown.
package exec

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/command"
	"github.com/muster-pki/muster/plugins/backend/frame"
)

// Options of New. The zero value works.
type Options = frame.Options

// CA implements backend.Backend. Calls are concurrent.
type CA struct {
	o      Options
	config *Config
	slots  chan struct{}

	mu  sync.Mutex
	cas []backend.CA // as they were last; nil before
}

var _ backend.Backend = (*CA)(nil)

// New makes a backend that is not configured yet.
func New(o Options) *CA {
	return &CA{o: o.Filled()}
}

// Validate is backend.Backend.Validate.
func (c *CA) Validate(_ context.Context, config []byte) error {
	_, err := frame.Parsed(parseConfig(config))
	return err
}

// Configure is backend.Backend.Configure. It looks whether the programs are there, and runs none.
func (c *CA) Configure(_ context.Context, config []byte) error {
	full, err := frame.Parsed(parseConfig(config))
	if err != nil {
		return err
	}
	var errs []error
	for _, cmd := range full.commands() {
		if cmd.argv != nil {
			if err := command.Executable(cmd.argv[0]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", cmd.name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	c.config, c.slots = full, make(chan struct{}, full.Concurrent)
	return nil
}

// Describe is backend.Backend.Describe: what commands there are, and what the configuration says of them.
func (c *CA) Describe(context.Context) (*backend.Description, error) {
	d := &backend.Description{
		Name: "exec", Version: c.o.Version, Forms: c.config.Forms, Overrides: c.config.Overrides, Decides: c.config.Decides,
		Idempotency: c.config.Idempotency,
	}
	for _, can := range []struct {
		argv command.Argv
		what backend.Capability
	}{{c.config.Poll, backend.CapPoll}, {c.config.Revoke, backend.CapRevoke}, {c.config.CRL, backend.CapCRL}} {
		if can.argv != nil {
			d.Capabilities = append(d.Capabilities, can.what)
		}
	}
	return d, nil
}

const (
	maxAnswer = 1 << 20                    // bytes of stdout
	maxCRL    = backend.MaxCRL/3*4 + 4<<20 // likewise, base64 or PEM of the largest CRL
	slotWait  = 5 * time.Second            // for another run to end, until the CA is busy
	busyRetry = 5 * time.Second            // after that
)

// run asks a command. Its errors mean for Issue what they say.
func (c *CA) run(ctx context.Context, argv command.Argv, q *question) (*answer, error) {
	if argv == nil {
		return nil, backend.Refuse(codes.Unimplemented, "there is no command for %s", q.Operation)
	}
	if err := ctx.Err(); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%s: %v", q.Operation, err)
	}
	stdin, err := json.Marshal(q)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	wait, cancel := context.WithTimeout(ctx, slotWait)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-wait.Done():
		return nil, backend.Exhausted(busyRetry, fmt.Sprintf("not asked: %d commands run already", c.config.Concurrent))
	}
	p := command.Program{
		Argv: argv, Dir: c.config.Dir, Env: c.config.Env, Limit: time.Duration(c.config.Timeout), Output: maxAnswer,
		Log: c.o.Log.With("operation", q.Operation, "id", q.ID),
	}
	if q.Operation == opCRL {
		p.Output = maxCRL
	}
	stdout, code, err := p.Run(ctx, append(stdin, '\n'))
	switch {
	case errors.Is(err, command.ErrNotStarted):
		return nil, backend.Exhausted(busyRetry, fmt.Sprintf("%s: %v", q.Operation, err))
	case err != nil:
		return nil, backend.Refuse(codes.Unavailable, "%s: %v", q.Operation, err)
	case code != 0:
		return nil, backend.Refuse(codes.Unavailable, "%s: exit code %d", q.Operation, code)
	}
	return parseAnswer(stdout)
}

// Issue is backend.Backend.Issue.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	ca, err := c.issuer(ctx, r.Issuer)
	if err != nil {
		return nil, err
	}
	q, err := c.questionOf(opIssue, r, ca)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	a, err := c.run(ctx, c.config.Issue, q)
	if err != nil {
		return nil, err
	}
	return c.issuance(a, ca)
}

// Poll is backend.Backend.Poll.
func (c *CA) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	if c.config.Poll == nil {
		return nil, backend.Refuse(codes.Unimplemented, "there is no command for %s", opPoll)
	}
	ca, q, err := c.known(ctx, opPoll, r)
	if err != nil {
		return nil, err
	}
	q.Ticket = ticket
	a, err := c.run(ctx, c.config.Poll, q)
	if err != nil {
		return nil, err
	}
	return c.issuance(a, ca)
}

// Lookup is backend.Backend.Lookup. That nothing was issued is believed when no run of issue can be under way any more: one that
// another gateway began ends with its own time limit.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	if c.config.Lookup == nil {
		return nil, backend.Refuse(codes.Unimplemented, "there is no command for %s", opLookup)
	}
	ca, q, err := c.known(ctx, opLookup, r)
	if err != nil {
		return nil, err
	}
	a, err := c.run(ctx, c.config.Lookup, q)
	if err != nil {
		return nil, err
	}
	switch state := backend.OutcomeState(a.State); state {
	case backend.OutcomeIssued, backend.OutcomePending:
		found, err := c.issuance(a, ca)
		if err != nil {
			return nil, err
		}
		if (state == backend.OutcomeIssued) != (found.Certificate != nil) {
			return nil, backend.Refuse(codes.Internal, "lookup says %q, and not what belongs to it", state)
		}
		return &backend.Outcome{State: state, Issuance: found}, nil
	case backend.OutcomeNever:
		if a.Certificate != "" || a.Ticket != "" {
			return nil, backend.Refuse(codes.Internal, "lookup says %q, and names a certificate or a ticket", state)
		}
		if c.config.Idempotency != backend.IdempotencyNative && c.underWay(r) {
			return &backend.Outcome{State: backend.OutcomeUnknown}, nil
		}
		return &backend.Outcome{State: state}, nil
	case backend.OutcomeUnknown:
		return &backend.Outcome{State: state}, nil
	}
	return nil, backend.Refuse(codes.Internal, "lookup says %.40q, which is none of issued, pending, never, unknown", a.State)
}

// margin is for clocks of replicas that differ.
const margin = 3 * time.Second

// underWay reports whether a run of issue, begun when the request was last asked for, may go on.
func (c *CA) underWay(r *backend.IssueRequest) bool {
	end := r.Asked.Add(slotWait + time.Duration(c.config.Timeout) + command.Grace + margin)
	return !r.Asked.IsZero() && c.o.Clock().Before(end)
}

// known is a question about a request that was asked for before: no error of it refuses anything.
func (c *CA) known(ctx context.Context, operation string, r *backend.IssueRequest) (*backend.CA, *question, error) {
	ca, err := c.issuer(ctx, r.Issuer)
	if err != nil {
		return nil, nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	q, err := c.questionOf(operation, r, ca)
	if err != nil { // Issue refused it likewise, or there is another configuration now
		q = &question{Version: 1, Operation: operation, ID: r.ID, Issuer: r.Issuer, Device: r.Device}
	}
	return ca, q, nil
}

// issuance is what an answer to issue, poll or lookup says.
func (c *CA) issuance(a *answer, ca *backend.CA) (*backend.Issuance, error) {
	wrong := func(format string, args ...any) (*backend.Issuance, error) {
		return nil, backend.Refuse(codes.Internal, "the answer: "+format, args...)
	}
	switch {
	case a.Certificate != "" && a.Ticket != "":
		return wrong("both a certificate and a ticket")
	case a.Ticket != "":
		if c.config.Poll == nil {
			return wrong("a ticket, and there is no command `poll` to ask with it")
		}
		if len(a.Ticket) > backend.MaxTicket {
			return wrong("a ticket of more than %d bytes", backend.MaxTicket)
		}
		return &backend.Issuance{Ticket: a.Ticket, RetryAfter: delay(a.RetryAfter)}, nil
	case a.Certificate == "":
		return wrong("neither a certificate nor a ticket nor a refusal")
	}
	leaf, err := der(a.Certificate, "CERTIFICATE")
	if err != nil {
		return wrong("certificate: %v", err)
	}
	if _, err := x509.ParseCertificate(leaf); err != nil {
		return wrong("certificate: %v", err)
	}
	out := &backend.Issuance{Certificate: leaf, Chain: ca.Chain}
	if len(a.Chain) > 0 {
		if out.Chain, err = chainOf(a.Chain); err != nil {
			return wrong("chain: %v", err)
		}
	}
	return out, nil
}
