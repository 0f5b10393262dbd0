package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/trace"
)

// Reject takes note of a request that an adapter refused before the pipeline saw it (it did not parse, its signature
// is wrong, ...), so that it is logged, counted and explained like any other. It returns e with its transaction set.
func (g *Gateway) Reject(ctx context.Context, r *Request, e *Error) *Error {
	d := &decision{request: r, endpoint: r.Endpoint, stage: string(r.Protocol), err: e, span: trace.Current(ctx), trace: trace.ID(ctx)}
	if g.runtime.Load().Endpoints[r.Endpoint] == nil {
		d.endpoint = "unknown"
	}
	if e.Err != nil {
		d.note = e.Err.Error()
	}
	_, err := g.conclude(ctx, d, r.Received)
	return AsError(err)
}

// conclude writes the one line that a request leaves in the log, counts it, and remembers refused strangers.
func (g *Gateway) conclude(ctx context.Context, d *decision, start time.Time) (*Result, error) {
	took := max(g.now().Sub(start), 0)
	r := d.request
	outcome, reason, id := "", Reason(""), r.ID
	var failure *Error
	if d.err != nil {
		e := *AsError(d.err)
		failure = &e
		failure.Transaction = r.ID
		outcome, reason = "refused", failure.Reason
		if !d.recorded {
			t := transactionOf(d, StateRefused)
			t.Reason, t.Note, t.Updated = reason, strings.TrimPrefix(d.stage+": "+cause(failure, d.note), ": "), g.now()
			g.strange.add(t, d.known())
		}
	} else {
		outcome, id = string(d.result.Kind), d.result.Transaction
		if d.result.Repeated {
			outcome = "repeated"
		}
		if d.result.Repeated || d.result.Kind == ResultAnswer && !d.recorded {
			g.strange.answered(d.endpoint + " " + outcome)
		}
	}
	d.tell(id, outcome, reason)
	g.meter.request(r.Protocol, d.endpoint, r.Operation, outcome, reason, took)

	level, note := slog.LevelInfo, d.note
	switch {
	case reason == Unavailable && errors.Is(ctx.Err(), context.Canceled):
		// Strangers can do so at will: nothing here has failed.
		note = "the client hung up before it was answered"
	case reason == Internal || reason == Unavailable:
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("id", id), slog.String("protocol", string(r.Protocol)), slog.String("endpoint", r.Endpoint),
		slog.String("operation", string(r.Operation)), slog.String("decision", outcome),
	}
	if d.grant != nil {
		attrs = told(attrs, "device", d.grant.Device, "requester", d.grant.Requester)
	}
	attrs = told(attrs, "subject", d.subject(), "reason", string(reason), "stage", d.stage, "key", d.unlike(), "note", cut(cause(failure, note), maxNote))
	attrs = told(attrs, "source", r.from(), "proxy", r.Proxy, "trace", d.trace)
	attrs = append(attrs, slog.Duration("duration", took))
	g.log.LogAttrs(ctx, level, "transaction", attrs...)

	if failure != nil {
		return nil, failure
	}
	return d.result, nil
}

// tell says on the request's span what became of it: of what the log line has, what the code and the configuration bound, and our ID.
func (d *decision) tell(id, outcome string, reason Reason) {
	d.span.Set("muster.transaction", id)
	d.span.Set("muster.protocol", string(d.request.Protocol))
	d.span.Set("muster.endpoint", d.endpoint)
	d.span.Set("muster.operation", string(d.request.Operation))
	d.span.Set("muster.decision", outcome)
	d.span.Set("muster.reason", string(reason))
	if reason == Internal || reason == Unavailable {
		d.span.Fail(string(reason))
	}
}

// told appends pairs of key and value, without those whose value is empty.
func told(attrs []slog.Attr, pairs ...string) []slog.Attr {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			attrs = append(attrs, slog.String(pairs[i], pairs[i+1]))
		}
	}
	return attrs
}

// cause is the operator's note on a failure: the stage's own words, else the error's.
func cause(e *Error, note string) string {
	if note != "" || e == nil {
		return note
	}
	if e.Err != nil {
		return e.Err.Error()
	}
	return e.Detail
}

// transactionOf starts the record of a request.
func transactionOf(d *decision, s State) *Transaction {
	r := d.request
	t := &Transaction{
		ID: r.ID, WireID: r.WireID, Protocol: r.Protocol, Endpoint: r.Endpoint, Operation: r.Operation, State: s,
		Verdicts: append(noted(r, d.trace), d.trail...), Received: r.Received,
	}
	keepFacts(t, d)
	t.Source = r.from()
	for _, c := range r.Credentials {
		t.Credentials = append(t.Credentials, c.String())
	}
	t.Subject = d.subject()
	if d.grant != nil {
		t.Requester, t.Device = d.grant.Requester, d.grant.Device
		if s != StateRefused && d.grant.Subject != nil && !bytes.Equal(d.grant.Subject, r.Subject) {
			t.Subject = nameOf(d.grant.Subject)
		}
	}
	return t
}

// TraceNote is how the note begins that keeps the ID of a request's trace with its transaction.
const TraceNote = "trace "

// noted are the adapter's notes as verdicts that decide nothing, to be shown before those of the stages.
func noted(r *Request, traceID string) []Judged {
	var list []Judged
	if traceID != "" {
		list = append(list, Judged{Stage: string(r.Protocol), Decision: Allow, Note: TraceNote + traceID})
	}
	if r.Proxy != "" {
		list = append(list, Judged{Stage: string(r.Protocol), Decision: Allow, Note: "came through the proxy " + r.Proxy + ", which says where from, and what the client has shown"})
	}
	for _, n := range r.Notes {
		list = append(list, Judged{Stage: string(r.Protocol), Decision: Allow, Note: cut(n, maxNote)})
	}
	return list
}

// nameOf is a Name as logs and lists show it, at most maxNote long: a stranger may send one of any size.
func nameOf(der []byte) string { return cut(pkix.FormatName(der), maxNote) }

// auditOf is the audit event of a transaction.
func auditOf(t *Transaction, kind, stage string) AuditEvent {
	e := aboutOf(t, kind)
	e.Stage = stage
	e.Credentials, e.Verdicts, e.Granted = listed(t.Credentials), verdictsFor(t.Verdicts), grantedFor(t)
	e.Asked, e.RequestSHA256 = t.askedOf()
	return e
}

// aboutOf is an event about a transaction that another event tells all of.
func aboutOf(t *Transaction, kind string) AuditEvent {
	return AuditEvent{
		Kind: kind, At: t.Updated, Transaction: t.ID, Protocol: t.Protocol, Endpoint: t.Endpoint, Operation: t.Operation, WireID: plain(t.WireID, eventText),
		Requester: cut(t.Requester, eventText), Device: t.Device, Subject: t.Subject, Reason: t.Reason, Note: plain(t.Note, eventNote), Source: t.Source,
	}
}

var errNoBackend = fmt.Errorf("the transaction's backend is no longer configured")
