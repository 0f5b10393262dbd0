package admin

import (
	"context"
	"net/http"
	"net/url"
)

// Approve approves a held request, by its transaction's ID or an unambiguous part as in Explain. Errors as Explain; *Error
// has status 409 too when it is not held, or you have approved it already.
func (c *Client) Approve(ctx context.Context, id, reason string) (*Transaction, error) {
	out := &Transaction{}
	return out, c.post(ctx, "/v1/transactions/"+url.PathEscape(id)+"/approve", nil, Decision{Reason: reason}, out)
}

// Deny ends a held request. Errors as Approve.
func (c *Client) Deny(ctx context.Context, id, reason string) (*Transaction, error) {
	out := &Transaction{}
	return out, c.post(ctx, "/v1/transactions/"+url.PathEscape(id)+"/deny", nil, Decision{Reason: reason}, out)
}

// ChallengeQuery selects challenges; its zero value selects the newest 100 that have not expired.
type ChallengeQuery struct {
	Endpoint string
	Expired  bool   // those too
	Before   string // ID: only older ones
	Limit    int    // 0: 100; at most 1000
}

// NewChallenge makes a challenge. The answer is the only one that has it in clear. Errors as Transactions.
func (c *Client) NewChallenge(ctx context.Context, n NewChallenge) (*Challenge, error) {
	out := &Challenge{}
	return out, c.post(ctx, "/v1/challenges", nil, n, out)
}

// Challenges lists them. Errors as Transactions.
func (c *Client) Challenges(ctx context.Context, q ChallengeQuery) (*ChallengeList, error) {
	out := &ChallengeList{}
	v := values("endpoint", q.Endpoint, "expired", yes(q.Expired), "before", q.Before, "limit", count(q.Limit))
	return out, c.get(ctx, "/v1/challenges", v, out)
}

// DropChallenge takes one away by its ID. Errors as Transactions; *Error has status 404 when there is none.
func (c *Client) DropChallenge(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/challenges/"+url.PathEscape(id), nil, nil, nil)
}

// RevokeQuery says which certificate is meant, by one of Serial, Transaction and Device.
type RevokeQuery struct {
	Serial      string // hexadecimal
	Issuer      string // RFC 4514; "" unless the serial number is ambiguous
	Transaction string // ID, or an unambiguous part
	Device      string // name or identifier: its only valid certificate
	All         bool   // with Device: all its valid certificates
}

// Settle ends a transaction whose CA does not say what it did, with what was found there. Errors as Approve; *Error has status 409 too when the certificate is
// not the one that was asked for.
func (c *Client) Settle(ctx context.Context, id string, f Finding) (*Transaction, error) {
	out := &Transaction{}
	return out, c.post(ctx, "/v1/transactions/"+url.PathEscape(id)+"/settle", nil, f, out)
}

// Revoke revokes for a reason by RFC 5280's name, "" for unspecified. Errors as Transactions; *Error has status 404 when
// there is no such certificate and 409, with candidates, when there are several.
func (c *Client) Revoke(ctx context.Context, q RevokeQuery, reason, note string) (*RevokeResult, error) {
	out := &RevokeResult{}
	return out, c.post(ctx, "/v1/certificates/revoke", nil, RevokeOrder{
		Serial: q.Serial, Issuer: q.Issuer, Transaction: q.Transaction, Device: q.Device, All: q.All, Reason: reason, Note: note,
	}, out)
}

// CAs lists the CAs of all backends. Errors as Transactions.
func (c *Client) CAs(ctx context.Context) (*CAList, error) {
	out := &CAList{}
	return out, c.get(ctx, "/v1/cas", nil, out)
}

// Rollover changes a CA of a backend over. With an error that is no *Error, or has status 503, it may have happened: the
// same ID finds out, and makes nothing twice. Errors as Transactions.
func (c *Client) Rollover(ctx context.Context, backend string, o RolloverOrder) (*CA, error) {
	out := &CA{}
	return out, c.post(ctx, "/v1/cas/"+url.PathEscape(backend)+"/rollover", nil, o, out)
}

// CRL returns a CRL, DER, by one of CA.CRLs, "" for the backend's default CA. Errors as Transactions.
func (c *Client) CRL(ctx context.Context, backend, name string) ([]byte, error) {
	var der []byte
	err := c.get(ctx, "/v1/cas/"+url.PathEscape(backend)+"/crl", values("name", name), &der)
	return der, err
}

// OpenAPI returns the API's OpenAPI 3.1 document. Errors as Transactions.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	var document []byte
	err := c.get(ctx, "/v1/openapi.json", nil, &document)
	return document, err
}
