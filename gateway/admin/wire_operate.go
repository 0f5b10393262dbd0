package admin

import (
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Hold is what a held transaction waits for, or what became of it.
type Hold struct {
	Stage     string     `json:"stage"`     // that held
	Approvers int        `json:"approvers"` // different people who have to approve
	Until     time.Time  `json:"until"`     // denied when nobody has approved by then
	Approvals []Approval `json:"approvals,omitempty"`
	Denied    *Approval  `json:"denied,omitempty"` // by whom; `by` is "" when the time ran out
}

// Approval is what one person said of a held request.
type Approval struct {
	By     string    `json:"by"` // "unix:root", "token:ops", "cert:CN=alice"
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Message is what a transaction's requester has sent since it began; equal ones are counted together.
type Message struct {
	Kind   string    `json:"kind"` // "poll", "repeat", "confirm", "reject"
	Note   string    `json:"note,omitempty"`
	Source string    `json:"source,omitempty"` // the last one's address
	Count  int64     `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// Decision is the body of POST /v1/transactions/{id}/approve and /deny.
type Decision struct {
	Reason string `json:"reason,omitempty"`
}

// Finding is the body of POST /v1/transactions/{id}/settle: what the CA's own records have of a transaction that is stuck, unknown or waiting. One of the first two.
type Finding struct {
	Certificate string `json:"certificate,omitempty"` // PEM: it was issued; its chain behind it, where it is not the backend's own
	Never       bool   `json:"never,omitempty"`       // nothing was issued, nor will be
	Note        string `json:"note,omitempty"`        // for the audit trail
}

// NewChallenge is the body of POST /v1/challenges.
type NewChallenge struct {
	Endpoint string     `json:"endpoint"`
	Device   string     `json:"device,omitempty"`    // whose requests are then that device's
	Subject  string     `json:"subject,omitempty"`   // RFC 4514: the one subject that it is good for; absent: any
	Profile  string     `json:"profile,omitempty"`   // absent: the endpoint's
	Uses     int64      `json:"uses,omitempty"`      // absent: 1
	NotAfter *time.Time `json:"not_after,omitempty"` // absent: in 24 hours
}

// Challenge is one that was made for an enrollment.
type Challenge struct {
	ID        string    `json:"id"`                  // by which it is named
	Challenge string    `json:"challenge,omitempty"` // itself: shown once, when it is made
	Endpoint  string    `json:"endpoint"`
	Device    string    `json:"device,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	Profile   string    `json:"profile,omitempty"`
	Uses      int64     `json:"uses"`
	Used      int64     `json:"used"` // how many of them are spent
	Created   time.Time `json:"created"`
	NotAfter  time.Time `json:"not_after"`
	By        string    `json:"by,omitempty"` // who had it made
}

// ChallengeList is the answer to GET /v1/challenges.
type ChallengeList struct {
	Challenges []Challenge `json:"challenges"`     // newest first
	Next       string      `json:"next,omitempty"` // for `before`, when there may be more
}

// RevokeOrder is the body of POST /v1/certificates/revoke. One of Serial, Transaction and Device says what is meant.
type RevokeOrder struct {
	Serial      string `json:"serial,omitempty"`      // hexadecimal
	Issuer      string `json:"issuer,omitempty"`      // RFC 4514: where two CAs have given the serial number
	Transaction string `json:"transaction,omitempty"` // its ID, or an unambiguous part
	Device      string `json:"device,omitempty"`      // its name or an identifier
	All         bool   `json:"all,omitempty"`         // with Device: all its valid certificates, not its only one
	Reason      string `json:"reason,omitempty"`      // RFC 5280 section 5.3.1's name; absent: unspecified
	Note        string `json:"note,omitempty"`        // for the audit trail
}

// RevokeResult is the answer to it.
type RevokeResult struct {
	Revoked []Revoked `json:"revoked"`
}

// Revoked is one certificate that is revoked.
type Revoked struct {
	Certificate Certificate `json:"certificate"`
	// Told: its CA has revoked it. Else the gateway goes on asking, unless Alone is true; here it is revoked at once.
	Told bool `json:"told"`
	// Alone: it is revoked here, and its CA takes no revocations from the gateway: it has to be revoked there by other means.
	Alone bool `json:"alone,omitempty"`
	// Already: it was revoked before, at the time and for the reason that stand in it. Nothing was changed.
	Already bool `json:"already,omitempty"`
}

// CAList is the answer to GET /v1/cas.
type CAList struct {
	CAs []CA `json:"cas"` // by backend, the default first
}

// CA is one issuing CA.
type CA struct {
	Backend  string          `json:"backend"`
	Name     string          `json:"name,omitempty"`
	Default  bool            `json:"default,omitempty"`  // of its backend
	Chain    []CACertificate `json:"chain,omitempty"`    // the issuing certificate first, the root last
	Rollover []CACertificate `json:"rollover,omitempty"` // of other generations, still good for certificates below them
	Next     []CACertificate `json:"next,omitempty"`     // announced, to follow Chain
	CRLs     []string        `json:"crls,omitempty"`     // names for GET /v1/cas/{backend}/crl
	// CRLShards are further such names, of CRLs of some of the CA's certificates each. The newest is the last.
	CRLShards []string `json:"crl_shards,omitempty"`
	CanRoll   bool     `json:"can_roll,omitempty"` // POST /v1/cas/{backend}/rollover is possible
	Error     string   `json:"error,omitempty"`    // why the backend does not answer
}

// CACertificate is a certificate of a CA.
type CACertificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Serial      string    `json:"serial"` // hexadecimal
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Key         string    `json:"key,omitempty"` // "P-256", "RSA-3072", ...
	Kind        string    `json:"kind"`          // "issuing", "intermediate", "root"; of other generations "issuing", "root", "OldWithNew", "NewWithOld"
	Fingerprint string    `json:"sha256"`        // of the DER, hexadecimal
	KeyID       string    `json:"key_id"`        // SHA-256 of the SubjectPublicKeyInfo, hexadecimal: equal ones are the same key
	PEM         string    `json:"pem,omitempty"`
}

// RolloverOrder is the body of POST /v1/cas/{backend}/rollover.
type RolloverOrder struct {
	ID     string `json:"id,omitempty"`     // the same again makes nothing; absent: a new one
	Issuer string `json:"issuer,omitempty"` // CA's name; absent: the default
	Kind   string `json:"kind"`             // "renew": a new certificate for the same key; "rekey": a new key
	Root   bool   `json:"root,omitempty"`   // the root changes, and with it the issuing CA; else the issuing CA alone

	Announce bool `json:"announce,omitempty"` // make it known, and put it in force by a later order without this
}

func holdOf(h *gateway.HoldRecord) *Hold {
	if h == nil {
		return nil
	}
	out := &Hold{Stage: h.Stage, Approvers: max(h.Approvers, 1), Until: h.Until.UTC()}
	for _, a := range h.Approvals {
		out.Approvals = append(out.Approvals, Approval{By: a.By, At: a.At.UTC(), Reason: a.Reason})
	}
	if d := h.Denied; d != nil {
		out.Denied = &Approval{By: d.By, At: d.At.UTC(), Reason: d.Reason}
	}
	return out
}

func messagesOf(all []gateway.Message) []Message {
	var out []Message
	for _, m := range all {
		out = append(out, Message{Kind: m.Kind, Note: m.Note, Source: m.Source, Count: m.Count, First: m.First.UTC(), Last: m.Last.UTC()})
	}
	return out
}
