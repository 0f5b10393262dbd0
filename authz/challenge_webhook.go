package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// challengeQuestion is what the operator's service is asked: docs/authz.md has it for people. Names are only ever added.
type challengeQuestion struct {
	ID          string    `json:"id"`   // of the request, for `muster explain`
	Time        time.Time `json:"time"` // when it was asked
	Endpoint    string    `json:"endpoint"`
	Protocol    string    `json:"protocol"`
	Operation   string    `json:"operation"`
	Transaction string    `json:"transaction"` // the protocol's own ID, as the client chose it
	Challenge   string    `json:"challenge"`
	CSR         []byte    `json:"csr"`     // DER PKCS#10, in base64; null where the protocol has none
	Key         string    `json:"key"`     // SHA-256 of the SubjectPublicKeyInfo, in hexadecimal
	Subject     string    `json:"subject"` // RFC 4514
	SANs        []string  `json:"sans"`    // "dns:...", "ip:...", "email:...", "uri:...", "other:..."
	Profile     string    `json:"profile"` // as asked for
	Device      string    `json:"device"`  // that an earlier stage named
	Source      string    `json:"source"`
}

// challengeAnswer is what it answers. Nothing but Allow has to be there.
type challengeAnswer struct {
	Allow   *bool  `json:"allow"`
	Reason  string `json:"reason"`  // for the operator
	Device  string `json:"device"`  // whose request this is
	Profile string `json:"profile"` // what it gets
	Subject string `json:"subject"` // RFC 4514: the one subject that it may ask for
}

// signs reports whether the request's message is signed with a key that the adapter has verified: its sender is then the one who
// sent the same before.
func signs(r *gateway.Request) bool {
	return slices.ContainsFunc(r.Credentials, func(c gateway.Credential) bool {
		return c.Kind == gateway.CredentialKey || c.Kind == gateway.CredentialSigner
	})
}

// ask has the operator's service judge a challenge. What is not a definite answer denies as Unavailable. Wrong ones count for the limit,
// so that the service is not asked about one guess after the other.
func (s *Challenge) ask(ctx context.Context, secret gateway.Secret, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if !utf8.Valid(secret) {
		return gateway.Denied(gateway.Unauthenticated, detailChallenge, "the challenge is not UTF-8, so that the webhook was not asked")
	}
	q := challengeQuestion{
		ID: r.ID, Time: s.now().UTC(), Endpoint: r.Endpoint, Protocol: string(r.Protocol), Operation: string(r.Operation), Transaction: r.WireID,
		Challenge: string(secret), CSR: r.CSR, SANs: []string{}, Profile: r.Profile, Device: g.Device, Source: r.Source.Unmap().String(),
	}
	if !r.Source.IsValid() {
		q.Source = r.Transport
	}
	if !isEmptyName(r.Subject) {
		q.Subject = pkix.FormatName(r.Subject)
	}
	if r.PublicKey != nil {
		sum := sha256.Sum256(r.PublicKey)
		q.Key = hex.EncodeToString(sum[:])
	}
	if san, ok := r.Extension(oidSubjectAltName); ok {
		names, err := parseNames(san)
		if err != nil {
			return gateway.Denied(gateway.BadTemplate, "the subjectAltName is malformed", fmt.Sprintf("the subjectAltName of the request: %v", err))
		}
		for _, n := range names {
			q.SANs = append(q.SANs, n.String())
		}
	}
	// A token stands for a wrong one: it is given back until the answer is known, since those behind one address may all be right. Whether
	// there is one counts when the question goes out: of many guesses at once, no more than are asked at once get past the limit.
	var wait time.Duration
	may := func() (ok bool) {
		if wait, ok = s.limit.take(r.Source, r.Received); ok {
			s.limit.giveBack(r.Source, r.Received)
		}
		return ok
	}
	same := q
	same.ID, same.Time, same.CSR, same.Source = "", time.Time{}, nil, "" // a CSR is signed anew each time
	key, err := questionKey(r, same)
	if err != nil {
		return gateway.Unanswered(err)
	}
	var a challengeAnswer
	switch err := s.service.Ask(ctx, g.Device, key, q, &a, may); {
	case errors.Is(err, webhook.ErrNot):
		return tooMany(r, max(wait, 1))
	case err != nil:
		return gateway.Unanswered(err)
	}
	return s.answered(&a, secret, r, g)
}

// answered is the verdict that an answer comes to.
func (s *Challenge) answered(a *challengeAnswer, secret gateway.Secret, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	host := s.service.Host()
	broken := func(what string) gateway.Verdict {
		return gateway.Unanswered(fmt.Errorf("webhook %s: its answer has no %s", host, what))
	}
	if a.Allow == nil {
		return broken("`allow`")
	}
	said := quoted(strings.ReplaceAll(a.Reason, string(secret), "[secret]")) // it may quote what it was asked
	if !*a.Allow {
		s.limit.take(r.Source, r.Received)
		return gateway.Denied(gateway.Unauthenticated, detailChallenge, "the webhook "+host+" does not allow it"+said)
	}
	switch {
	case !answered(a.Device):
		return broken("`device` of at most 255 printable bytes")
	case !answered(a.Profile):
		return broken("`profile` of at most 255 printable bytes")
	case !legible(a.Subject):
		return broken("`subject` that could be read (RFC 4514)")
	}
	g.Authenticate(gateway.Credential{Kind: gateway.CredentialChallenge, ID: "webhook:" + host})
	if a.Device != "" {
		if denied, ok := nameDevice(g, a.Device); !ok {
			return denied
		}
	}
	return wish{forChallenge, a.Subject, a.Profile}.suits(r.Subject, "the webhook "+host+" allows it"+said, r, g)
}
