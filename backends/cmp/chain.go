package cmp

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// authority is the CA as it was found: DER.
type authority struct {
	chain    [][]byte // the issuing certificate first, the root last
	rollover [][]byte // backend.CA.Rollover
}

// knownChain is the CA's chain as it was last found, nil while it never was.
func (r *running) knownChain() [][]byte {
	if a := r.found.Load(); a != nil {
		return a.chain
	}
	return nil
}

// authority finds the CA's certificates: in the file, read again each time, or by asking.
func (r *running) authority(ctx context.Context) (a *authority, err error) {
	if r.Chain != "" {
		a, err = r.fromFile()
	} else {
		a, err = r.asksAuthority(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.found.Store(a)
	return a, nil
}

func (r *running) fromFile() (*authority, error) {
	text, err := read("chain", r.Chain)
	if err != nil {
		return nil, err
	}
	list, err := certificates("chain", text)
	if err != nil {
		return nil, err
	}
	chain, err := linked(list)
	return &authority{chain: chain}, err
}

// asksAuthority asks for caCerts, and where what they say does not lead to a root that is believed in, for what became of that
// (rootCaCert, RFC 9810 section 5.3.19.15, RFC 9483 section 4.3.2).
func (r *running) asksAuthority(ctx context.Context) (*authority, error) {
	value, err := r.general(ctx, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCACerts}, cmpmsg.OIDCACerts)
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "the CA tells no caCerts: name the files of its chain in chain")
	}
	certs, err := cmpmsg.ParseSequences(value)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "caCerts: %v", err)
	}
	id, err := r.identity()
	if err != nil {
		return nil, err
	}
	t, err := newTold(parsed(certs), id.trust, r.now())
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "caCerts: %v: name the files of its chain in chain", err)
	}
	unknown := r.asksUpdates(ctx, t)
	a, err := t.authority(&r.issued)
	if err != nil && unknown != nil {
		err = fmt.Errorf("%w (asked what follows the root in trust: %w)", err, unknown)
	}
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "caCerts: %v: name the files of its chain in chain", err)
	}
	return a, nil
}

// maxUpdates is how many changes of roots are asked for: one is several changes behind at most.
const maxUpdates = 8

// asksUpdates asks what follows the roots under whose name the CA has certificates that lead to none. A CA that does not know the
// question is judged by what it has told: the error is for people.
func (r *running) asksUpdates(ctx context.Context, t *told) error {
	asked := 0
	for at := 0; at < len(t.roots.list) && asked < maxUpdates; at++ {
		root := t.roots.list[at]
		if !t.unexplained(root) {
			continue
		}
		asked++
		value, err := r.general(ctx, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCACert, Value: root.Raw}, cmpmsg.OIDRootCAKeyUpdate)
		if err != nil {
			return err
		}
		if value == nil {
			continue
		}
		u, err := cmpmsg.ParseRootUpdate(value)
		if err != nil {
			return fmt.Errorf("rootCaKeyUpdate: %w", err)
		}
		for _, c := range parsed([][]byte{u.NewWithNew, u.NewWithOld, u.OldWithNew}) {
			if pkix.SameName(c.RawSubject, root.RawSubject) { // else it is no issuing CA's for having come here
				t.add(c)
			}
		}
	}
	return nil
}

// linked checks a chain: the issuing CA first, the root last.
func linked(list []*x509.Certificate) ([][]byte, error) {
	if len(list) == 0 || len(list) > backend.MaxChain {
		return nil, fmt.Errorf("a chain of %d certificates: 1 to %d", len(list), backend.MaxChain)
	}
	var chain [][]byte
	for i, c := range list {
		if !c.IsCA {
			return nil, fmt.Errorf("chain: certificate %d is no CA's", i+1)
		}
		if i+1 < len(list) && c.CheckSignatureFrom(list[i+1]) != nil {
			return nil, fmt.Errorf("chain: certificate %d is not issued by the next: the issuing CA's comes first, the root last", i+1)
		}
		chain = append(chain, c.Raw)
	}
	if !selfSigned(list[len(list)-1]) {
		return nil, errors.New("chain: it does not end with a root")
	}
	return chain, nil
}
