package main

import (
	"context"
	"crypto/x509"
	x509name "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/serve"
)

// selfStage allows the gateway's own request for one subject and the names that its listeners have, and nothing else.
// No adapter makes requests of Protocol Self.
type selfStage struct {
	endpoint string
	subject  x509name.Name
	names    serve.Names
	instance string
	until    time.Time // the certificate's latest end, the CA's own; zero: whatever the profile says
}

func (selfStage) Name() string { return "self" }

func (s selfStage) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if r.Protocol != gateway.Self || r.Endpoint != s.endpoint {
		return gateway.Denied(gateway.NotAuthorized, "", "not a request of the gateway itself")
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return gateway.Denied(gateway.Malformed, "", err.Error())
	}
	// The names are compared as a certificate would carry them.
	asked := &x509.Certificate{DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, EmailAddresses: csr.EmailAddresses, URIs: csr.URIs}
	if !s.names.Equal(asked) || csr.Subject.String() != s.subject.String() {
		return gateway.Denied(gateway.NotAuthorized, "", "asked for names that the gateway does not have")
	}
	g.Authenticate(gateway.Credential{Kind: "self", ID: s.instance})
	if !g.NameDevice(s.instance) {
		return gateway.Denied(gateway.NotAuthorized, "", "two devices")
	}
	if s.until.After(r.Received) && g.NotAfter.After(s.until) {
		g.NotAfter = s.until
	}
	what := s.names.String()
	if what == "" {
		what = s.subject.String()
	}
	return gateway.Allowed("the gateway itself, for " + what)
}

// selfEndpointOf is the endpoint through which the gateway gets a certificate of its own.
func selfEndpointOf(s selfStage, profile gateway.Profile) *gateway.Endpoint {
	profile.Name, profile.Backdate = s.endpoint, 5*time.Minute
	return &gateway.Endpoint{
		Name: s.endpoint, Protocol: gateway.Self, Profile: &profile,
		Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {s}},
	}
}

// makeSelf is the endpoint of the TLS certificate.
func makeSelf(s *ServerCertificate, names serve.Names, instance string) *gateway.Endpoint {
	want := serve.Server(names, nil)
	return selfEndpointOf(selfStage{endpoint: selfEndpoint, subject: want.Name(), names: names, instance: instance}, gateway.Profile{
		Backend: s.Backend, Issuer: s.Issuer, Validity: time.Duration(s.Validity),
		KeyUsage: want.Usage, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	})
}

// issueSelf is a serve.Issue that goes the way of every request, by the Runtime of g. instead says what else the operator can do, for a CA
// that issues later.
func (p *process) issueSelf(g *gateway.Gateway, endpoint, instead string) serve.Issue {
	return func(ctx context.Context, der []byte) ([][]byte, error) {
		csr, err := pkix.ParseCSR(der)
		if err != nil {
			return nil, err
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, err
		}
		now := p.clock()
		res, err := g.Enroll(ctx, &gateway.Request{
			ID: gateway.NewID(now), Protocol: gateway.Self, Endpoint: endpoint, Operation: gateway.Enroll,
			Subject: csr.Subject, PublicKey: csr.PublicKey, Extensions: csr.Extensions, CSR: der, POP: gateway.POPSignature, Received: now,
		})
		if err != nil {
			return nil, err
		}
		if res.Kind == gateway.ResultPending {
			return p.awaitSelf(ctx, res.Transaction, instead)
		}
		if res.Kind != gateway.ResultIssued || res.Certificate == nil {
			return nil, fmt.Errorf("transaction %s: %s, no certificate", res.Transaction, res.Kind)
		}
		chain := [][]byte{res.Certificate.Raw}
		for _, c := range res.Chain {
			chain = append(chain, c.Raw)
		}
		return chain, nil
	}
}

const (
	selfPatience = 30 * time.Second
	selfPoll     = 100 * time.Millisecond
)

// awaitSelf waits for the outcome of a transaction that the worker settles: the CA's plugin may just have died.
func (p *process) awaitSelf(ctx context.Context, id, instead string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, selfPatience)
	defer cancel()
	tick := time.NewTicker(selfPoll)
	defer tick.Stop()
	for {
		t, err := p.store.Transaction(ctx, id)
		switch {
		case err == nil && t.State == gateway.StateIssued && t.Certificate != nil:
			return append([][]byte{t.Certificate.DER}, t.Certificate.Chain...), nil
		case err == nil && !t.State.Open():
			return nil, fmt.Errorf("transaction %s: %s: %s", id, t.State, t.Note)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("transaction %s: the CA issues it later, and the gateway cannot wait: %s", id, instead)
		case <-tick.C:
		}
	}
}
