package cmp

import (
	"bytes"
	"errors"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// currentCRL is the CRL of the profile's CA (RFC 9810 section 5.3.19.6), by its current key.
func (g *general) currentCRL(q *question) ([]byte, *refusal) {
	ca, ref := g.authority(q.profile)
	if ref != nil {
		return nil, ref
	}
	der, _, ref := g.crl(crlSource{q.profile.Backend, ca.CRLs[0]})
	if ref == nil && der == nil {
		return nil, unanswered
	}
	return der, ref
}

// crlSource names a CRL of a backend.
type crlSource struct{ backend, name string }

// crl returns a CRL, nil when the backend has none.
func (g *general) crl(s crlSource) ([]byte, gateway.CRLInfo, *refusal) {
	der, info, err := g.x.h.gateway.CRL(g.x.R.Context(), s.backend, s.name)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return nil, info, nil
	case err != nil:
		return nil, info, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}}
	}
	return der, info, nil
}

// maxCRLStatus is how many sources a crlStatusList may have.
const maxCRLStatus = 16

// newCRLs are those that are newer than what the client has (RFC 9810 section 5.3.19.17), each once; absent when none is. A CA
// with several keys has a CRL by each. A source that is none of this endpoint's CAs adds nothing.
func (g *general) newCRLs(q *question) ([]byte, *refusal) {
	list, err := cmpmsg.ParseCRLStatusList(q.Value)
	if err != nil {
		return nil, unparsed(q, err)
	}
	if len(list) > maxCRLStatus {
		return nil, refused(gateway.Unsupported, "the crlStatusList has more than 16 sources: ask for fewer at once", nil)
	}
	known, ref := g.crlSources()
	if ref != nil {
		return nil, ref
	}
	var crls [][]byte
	for i := range list {
		keys := map[string]bool{} // of the CRLs for this source: the current key's goes by two names
		for _, k := range known {
			if !k.isMeant(&list[i]) {
				continue
			}
			der, info, ref := g.crl(k.crlSource)
			if ref != nil {
				return nil, ref
			}
			if der == nil || info.Signer != nil && k.uris == nil && keys[string(info.Signer.RawSubjectPublicKeyInfo)] {
				continue
			}
			if info.Signer != nil && k.uris == nil {
				keys[string(info.Signer.RawSubjectPublicKeyInfo)] = true
			}
			newer := list[i].ThisUpdate.IsZero() || info.ThisUpdate.After(list[i].ThisUpdate)
			if newer && !slices.ContainsFunc(crls, func(c []byte) bool { return bytes.Equal(c, der) }) {
				crls = append(crls, der)
			}
		}
	}
	if len(crls) == 0 {
		return nil, nil
	}
	return made(cmpmsg.MarshalSequences(crls...))
}

// knownCRL is a CRL that a client may mean.
type knownCRL struct {
	crlSource
	issuer []byte   // DER Name
	uris   []string // of a shard's; nil of one that lists all that the CA has revoked
}

// crlSources are the CRLs of the CAs behind the endpoint's profiles.
func (g *general) crlSources() ([]knownCRL, *refusal) {
	var list []knownCRL
	seen := map[crlSource]bool{}
	for _, p := range g.profiles {
		ca, ref := g.authority(p)
		if ref != nil {
			return nil, ref
		}
		for _, name := range ca.CRLs {
			if k := (crlSource{p.Backend, name}); !seen[k] {
				seen[k] = true
				list = append(list, knownCRL{k, ca.Chain[0].RawSubject, nil})
			}
		}
		for _, s := range ca.Shards {
			if k := (crlSource{p.Backend, s.Name}); !seen[k] {
				seen[k] = true
				list = append(list, knownCRL{k, ca.Chain[0].RawSubject, s.URIs})
			}
		}
	}
	return list, nil
}

// isMeant reports whether a client's source is this CRL: the issuing CA by its name, which means what it has revoked in all, or a distribution point by the URI under
// which the gateway serves it, whatever the host. Nothing is fetched from there (RFC 9810 section 5.3.19.17).
func (k *knownCRL) isMeant(s *cmpmsg.CRLStatus) bool {
	names := s.Issuer
	if names == nil {
		names = s.DistributionPoint
	}
	in := cryptobyte.String(names)
	var list, content cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&list, &tag) || s.Issuer == nil && tag != contextTag(0).Constructed() { // fullName
		return false
	}
	for !list.Empty() {
		if !list.ReadAnyASN1(&content, &tag) {
			return false
		}
		switch {
		case tag == contextTag(4).Constructed() && k.uris == nil && pkix.SameName(content, k.issuer): // directoryName
			return true
		case tag == contextTag(6) && s.Issuer == nil && k.isAt(string(content)): // uniformResourceIdentifier
			return true
		}
	}
	return false
}

func (k *knownCRL) isAt(uri string) bool {
	if slices.Contains(k.uris, uri) {
		return true
	}
	u, err := url.Parse(uri)
	return err == nil && strings.HasSuffix(u.Path, "/crl/"+k.backend+"/"+k.name+".crl")
}

func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
