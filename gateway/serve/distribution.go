package serve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Distribution hands out CRLs, CA certificates and OCSP answers over HTTP, to anybody, under the URLs that certificates carry:
//
//	/crl/BACKEND/NAME.crl  the CRL, DER (RFC 5280 section 4.2.1.13, RFC 2585)
//	/ca/BACKEND/NAME.crt   the issuing certificate, DER (RFC 5280 section 4.2.2.1)
//	/ca/BACKEND/NAME.p7c   it, those of the CA's earlier keys, and the links between its roots, in a certs-only message
//	/ocsp/BACKEND/NAME     OCSP (RFC 6960 appendix A.1), by POST, and by GET with /BASE64 behind
//
// NAME is a CA's name, or that of the CRL of one of its earlier keys.
type Distribution struct {
	Publisher Publisher
	// CertsOnly makes a certs-only SignedData (RFC 5272 section 4.1) of DER certificates.
	CertsOnly func(certs ...[]byte) ([]byte, error)
	Clock     func() time.Time
	Log       *slog.Logger
}

// Publisher is what Distribution hands out. All errors wrap gateway.ErrNotFound when there is no such thing, else they
// are a *gateway.Error.
type Publisher interface {
	CRL(ctx context.Context, backend, name string) (der []byte, info gateway.CRLInfo, err error)
	Issuers(ctx context.Context, backend, name string) ([]*x509.Certificate, error)
	// OCSP's info is nil for an answer without a signature.
	OCSP(ctx context.Context, backend, issuer string, request []byte) (der []byte, info *gateway.OCSPInfo, err error)
}

const (
	distributionTimeout = 10 * time.Second // for the CA, where nothing is at hand
	overdueFor          = time.Minute      // how long caches keep a CRL of which the next is due
	certificateFor      = time.Hour        // and a CA certificate, in whose place another comes at a rollover
)

// Handler answers what lies below /crl/, /ca/ and /ocsp/, and passes everything else on.
func (d *Distribution) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/ocsp/"); ok {
			d.ocsp(w, r, rest)
			return
		}
		serve := d.crl
		rest, ok := strings.CutPrefix(r.URL.Path, "/crl/")
		if !ok {
			serve = d.certificate
			if rest, ok = strings.CutPrefix(r.URL.Path, "/ca/"); !ok {
				next.ServeHTTP(w, r)
				return
			}
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "this is read by GET")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), distributionTimeout)
		defer cancel()
		backend, file, _ := strings.Cut(rest, "/")
		p, err := serve(ctx, backend, file)
		switch {
		case err == nil:
			p.write(w, r, d.Clock())
		case errors.Is(err, gateway.ErrNotFound):
			refuse(w, http.StatusNotFound, "there is no such file: /crl/BACKEND/NAME.crl, /ca/BACKEND/NAME.crt and NAME.p7c are served, by the names that the CA gives")
		default:
			d.Log.Warn("not handed out", "path", r.URL.Path, "err", err)
			retry := overdueFor
			if e, ok := errors.AsType[*gateway.Error](err); ok && e.RetryAfter > 0 {
				retry = e.RetryAfter
			}
			w.Header().Set("Retry-After", strconv.FormatInt(int64(retry.Seconds()+0.999), 10))
			refuse(w, http.StatusServiceUnavailable, "the CA does not answer now")
		}
	})
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}

// published is a file with what caches are told of it.
type published struct {
	body        []byte
	contentType string
	tag         string
	modified    time.Time
	until       time.Time // it may be kept
}

// crl is a CRL. Caches keep it until the next one is planned, and never beyond its end (RFC 5019 section 6.2, for OCSP).
func (d *Distribution) crl(ctx context.Context, backend, file string) (*published, error) {
	name, ok := strings.CutSuffix(file, ".crl")
	if !ok {
		return nil, gateway.ErrNotFound
	}
	der, info, err := d.Publisher.CRL(ctx, backend, name)
	if err != nil {
		return nil, err
	}
	return &published{der, "application/pkix-crl", info.Tag, info.ThisUpdate, d.until(info.Planned, info.NextUpdate)}, nil
}

// until is how long caches may keep something of which the next is planned.
func (d *Distribution) until(planned, end time.Time) time.Time {
	if soon := d.Clock().Add(overdueFor); planned.Before(soon) {
		planned = soon
	}
	if planned.After(end) {
		return end
	}
	return planned
}

// certificate is a CA certificate, or a bundle of them.
func (d *Distribution) certificate(ctx context.Context, backend, file string) (*published, error) {
	name, single := strings.CutSuffix(file, ".crt")
	bundle := false
	if !single {
		if name, bundle = strings.CutSuffix(file, ".p7c"); !bundle {
			return nil, gateway.ErrNotFound
		}
	}
	certs, err := d.Publisher.Issuers(ctx, backend, name)
	if err != nil {
		return nil, err
	}
	p := &published{body: certs[0].Raw, contentType: "application/pkix-cert", modified: certs[0].NotBefore, until: d.Clock().Add(certificateFor)}
	if bundle {
		var raw [][]byte
		for _, c := range certs {
			raw = append(raw, c.Raw)
			if c.NotBefore.After(p.modified) {
				p.modified = c.NotBefore
			}
		}
		p.contentType = "application/pkcs7-mime"
		if p.body, err = d.CertsOnly(raw...); err != nil {
			return nil, fmt.Errorf("certs-only message: %w", err)
		}
	}
	sum := sha256.Sum256(p.body)
	p.tag = hex.EncodeToString(sum[:])
	return p, nil
}

// write answers with the file, or that the client has it already.
func (p *published) write(w http.ResponseWriter, r *http.Request, now time.Time) {
	p.tell(w.Header(), now)
	http.ServeContent(w, r, "", p.modified, bytes.NewReader(p.body))
}

// tell sets what caches go by.
func (p *published) tell(h http.Header, now time.Time) {
	h.Set("Content-Type", p.contentType)
	h.Set("ETag", `"`+p.tag+`"`)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, must-revalidate, no-transform", max(int64(p.until.Sub(now)/time.Second), 0)))
	h.Set("Expires", p.until.UTC().Format(http.TimeFormat))
	h.Set("X-Content-Type-Options", "nosniff")
}
