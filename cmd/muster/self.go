package main

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/serve"
)

// selfStage allows the gateway's own request for the names that its listeners have, and nothing else. No adapter
// makes requests of Protocol Self.
type selfStage struct {
	names    serve.Names
	instance string
}

func (selfStage) Name() string { return "self" }

func (s selfStage) Decide(_ context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if r.Protocol != gateway.Self || r.Endpoint != selfEndpoint {
		return gateway.Denied(gateway.NotAuthorized, "", "not a request of the gateway itself")
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return gateway.Denied(gateway.Malformed, "", err.Error())
	}
	// The names are compared as a certificate would carry them.
	asked := &x509.Certificate{DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, EmailAddresses: csr.EmailAddresses, URIs: csr.URIs}
	if !s.names.Equal(asked) {
		return gateway.Denied(gateway.NotAuthorized, "", "asked for names that the listeners do not have")
	}
	g.Authenticate(gateway.Credential{Kind: "self", ID: s.instance})
	if !g.NameDevice(s.instance) {
		return gateway.Denied(gateway.NotAuthorized, "", "two devices")
	}
	return gateway.Allowed("the gateway itself, for " + s.names.String())
}

// makeSelf is the endpoint through which the gateway gets its own certificate.
func makeSelf(s *ServerCertificate, names serve.Names, instance string) *gateway.Endpoint {
	return &gateway.Endpoint{
		Name: selfEndpoint, Protocol: gateway.Self,
		Profile: &gateway.Profile{
			Name: selfEndpoint, Backend: s.Backend, Issuer: s.Issuer, Validity: time.Duration(s.Validity), Backdate: 5 * time.Minute,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}},
		},
		Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: {selfStage{names, instance}}},
	}
}

// issueSelf is a serve.Issue that goes the way of every request.
func (p *process) issueSelf(ctx context.Context, der []byte) ([][]byte, error) {
	csr, err := pkix.ParseCSR(der)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	now := p.clock()
	res, err := p.gateway.Enroll(ctx, &gateway.Request{
		ID: gateway.NewID(now), Protocol: gateway.Self, Endpoint: selfEndpoint, Operation: gateway.Enroll,
		Subject: csr.Subject, PublicKey: csr.PublicKey, Extensions: csr.Extensions, CSR: der, POP: gateway.POPSignature, Received: now,
	})
	if err != nil {
		return nil, err
	}
	if res.Kind == gateway.ResultPending {
		return p.awaitSelf(ctx, res.Transaction)
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

const (
	selfPatience = 30 * time.Second
	selfPoll     = 100 * time.Millisecond
)

// awaitSelf waits for the outcome of a transaction that the worker settles: the CA's plugin may just have died.
func (p *process) awaitSelf(ctx context.Context, id string) ([][]byte, error) {
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
			return nil, fmt.Errorf("transaction %s: the CA issues it later, and TLS cannot wait: give the listener tls.cert and tls.key, "+
				"or name another backend under server-certificate", id)
		case <-tick.C:
		}
	}
}
