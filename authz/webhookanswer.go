package authz

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// webhookAnswer is what the operator's service answers: docs/authz.md has it for people. Nothing but Decision has to be there.
type webhookAnswer struct {
	Decision   gateway.Decision  `json:"decision"`   // allow, deny, hold
	Reason     string            `json:"reason"`     // for the operator
	Message    string            `json:"message"`    // for the client, with deny
	Device     string            `json:"device"`     // whose request this is
	Profile    string            `json:"profile"`    // what it gets
	Subject    string            `json:"subject"`    // RFC 4514: the one subject that may be asked for
	SANs       *[]string         `json:"sans"`       // "dns:...", ...: the names that may be asked for; null for any
	NotAfter   *time.Time        `json:"notAfter"`   // the certificate ends then at the latest
	Attributes map[string]string `json:"attributes"` // for rules and templates
	Approvers  int               `json:"approvers"`  // with hold
	Expires    string            `json:"expires"`    // likewise: "3d"
}

// detailDenied is what clients are told where the service has no words for them.
const detailDenied = "the request is not allowed"

const (
	maxMessage            = 200 // bytes of a text for the client
	maxAnsweredAttributes = 32  // of a request
	maxAttributeValue     = 256 // bytes: no template makes more
)

// check reports what of an answer is not as documented. Such an answer is none, whatever it decides.
func (a *webhookAnswer) check(r *gateway.Request, hold bool, now time.Time) error {
	no := func(what string) error { return errors.New("its answer has no " + what) }
	switch {
	case a.Decision != gateway.Allow && a.Decision != gateway.Deny && a.Decision != gateway.Hold:
		return no("`decision`: allow, deny or hold")
	case len(a.Message) > maxMessage || !printable(a.Message):
		return no(fmt.Sprintf("`message` of at most %d printable bytes", maxMessage))
	case !answered(a.Device):
		return no("`device` of at most 255 printable bytes")
	case !answered(a.Profile):
		return no("`profile` of at most 255 printable bytes")
	case !legible(a.Subject):
		return no("`subject` that could be read (RFC 4514)")
	case a.NotAfter != nil && !a.NotAfter.After(now):
		return no("`notAfter` that is to come: deny what is to have no certificate")
	}
	if a.SANs != nil {
		if _, err := parseAllowed(*a.SANs); err != nil {
			return err
		}
	}
	if err := checkAttributes(a.Attributes); err != nil {
		return err
	}
	switch certifies := r.Operation.Certifies(); {
	case !certifies && (a.Profile != "" || a.Subject != "" || a.SANs != nil || a.NotAfter != nil):
		return fmt.Errorf("its answer has a profile, subject, sans or notAfter, and the operation %s certifies nothing", r.Operation)
	case a.Decision == gateway.Hold && !hold:
		return errors.New("its answer is hold, and the stage has no `hold: true`")
	case a.Decision == gateway.Hold && !certifies:
		return fmt.Errorf("its answer is hold, and the operation %s does not wait", r.Operation)
	case a.Decision != gateway.Hold && (a.Approvers != 0 || a.Expires != ""):
		return errors.New("its answer has approvers or expires, and its decision is not hold")
	case a.Approvers < 0 || a.Approvers > gateway.MaxApprovers:
		return no(fmt.Sprintf("`approvers`: 1 to %d", gateway.MaxApprovers))
	}
	if _, err := a.terms(); err != nil {
		return no("`expires`: 1m to 90d")
	}
	return nil
}

// terms are those of an answer that holds.
func (a *webhookAnswer) terms() (gateway.HoldTerms, error) {
	t := gateway.HoldTerms{Approvers: max(a.Approvers, 1), Expires: gateway.DefaultHold}
	if a.Expires == "" {
		return t, nil
	}
	d, err := strictyaml.ParseDuration(a.Expires)
	t.Expires = time.Duration(d)
	if err == nil && (t.Expires < gateway.MinHold || t.Expires > gateway.MaxHold) {
		err = errors.New("out of bounds")
	}
	return t, err
}

// checkAttributes judges what a service says of a request.
func checkAttributes(m map[string]string) error {
	if len(m) > maxAnsweredAttributes {
		return fmt.Errorf("its answer has %d attributes, at most %d are taken", len(m), maxAnsweredAttributes)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := gateway.CheckAttribute(name, m[name]); err != nil {
			return fmt.Errorf("its answer: attributes: %w", err)
		}
		if len(m[name]) > maxAttributeValue {
			return fmt.Errorf("its answer: attribute %s has %d bytes, at most %d are taken", name, len(m[name]), maxAttributeValue)
		}
	}
	return nil
}

// parseAllowed reads the names that may be asked for.
func parseAllowed(list []string) ([]generalName, error) {
	if len(list) > maxNames {
		return nil, fmt.Errorf("its answer has %d sans, at most %d are taken", len(list), maxNames)
	}
	var all []generalName
	for _, s := range list {
		kind, text, _ := strings.Cut(s, ":")
		n := generalName{kind: kind, text: text}
		if kind == sanIP {
			n.ip, _ = netip.ParseAddr(text)
		}
		if !slices.Contains(sanKinds, kind) || text == "" || !printable(s) || kind == sanIP && !n.ip.IsValid() {
			return nil, errors.New("its answer has no `sans` that are each dns:NAME, ip:ADDRESS, email:MAILBOX or uri:URI")
		}
		all = append(all, n)
	}
	return all, nil
}

// same reports whether two names are one. Host names are compared without regard to case (RFC 4343).
func (n generalName) same(o generalName) bool {
	switch {
	case n.kind != o.kind:
		return false
	case n.kind == sanDNS:
		return strings.EqualFold(n.text, o.text)
	case n.kind == sanIP:
		return n.ip.Unmap() == o.ip.Unmap()
	}
	return n.text == o.text
}

// verdict is what a checked answer comes to. What it says of the request goes into the grant.
func (a *webhookAnswer) verdict(host string, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	said := map[gateway.Decision]string{gateway.Allow: " allows it", gateway.Deny: " denies it", gateway.Hold: " holds it"}[a.Decision]
	note := "the webhook " + host + said + quoted(a.Reason)
	if a.Decision == gateway.Deny {
		return gateway.Denied(gateway.NotAuthorized, cmp.Or(a.Message, detailDenied), note)
	}
	note, denied, ok := a.name(note, g)
	if !ok {
		return denied
	}
	subject, san := asked(r, g)
	v := wish{"this is for", a.Subject, a.Profile}.suits(subject, note, r, g)
	if v.Decision != gateway.Allow {
		return v
	}
	if a.SANs != nil {
		if denied, ok := a.allowsSAN(san, v.Note); !ok {
			return denied
		}
	}
	if a.NotAfter != nil {
		g.EndBy(*a.NotAfter)
		if !g.NotBefore.Before(g.NotAfter) {
			return gateway.Unanswered(errors.New(v.Note + ": its notAfter lies before the certificate would begin"))
		}
		v.Note += ", until " + g.EndsBy().Format(time.RFC3339)
	}
	if denied, ok := a.attribute(&v, g); !ok {
		return denied
	}
	if a.Decision == gateway.Hold {
		terms, err := a.terms()
		if err != nil {
			return gateway.Unanswered(err)
		}
		v = heldFor(v.Note, terms)
	}
	return v
}

// name names the device. Whose request it is counts only for who has authenticated: else a stage behind this one that goes by
// the device would take for known who has only been spoken of.
func (a *webhookAnswer) name(note string, g *gateway.Grant) (string, gateway.Verdict, bool) {
	if a.Device == "" {
		return note, gateway.Verdict{}, true
	}
	if g.Requester == "" {
		return "", gateway.Denied(gateway.NotAuthorized, detailDenied,
			fmt.Sprintf("%s, as device %s, and no stage before has authenticated who asks: put one there", note, shown(a.Device))), false
	}
	denied, ok := nameDevice(g, a.Device)
	return note + ", device " + shown(a.Device), denied, ok
}

// asked are the names that would be certified without templates: those to change to, where a change is asked for.
func asked(r *gateway.Request, g *gateway.Grant) (subject, san []byte) {
	if n := r.NewNames; n != nil {
		return n.Subject, n.SubjectAltName
	}
	return g.Subject, g.SubjectAltName
}

// allowsSAN judges the subjectAltName that is asked for.
func (a *webhookAnswer) allowsSAN(der []byte, note string) (denied gateway.Verdict, ok bool) {
	allowed, err := parseAllowed(*a.SANs)
	if err != nil {
		return gateway.Unanswered(err), false
	}
	if len(der) == 0 {
		return gateway.Verdict{}, true
	}
	names, err := parseNames(der)
	if err != nil {
		return gateway.Denied(gateway.BadTemplate, "the subjectAltName is malformed", fmt.Sprintf("%s: the subjectAltName: %v", note, err)), false
	}
	for _, n := range names {
		if !slices.ContainsFunc(allowed, n.same) {
			return gateway.Denied(gateway.NotAuthorized, "this is for another subjectAltName",
				fmt.Sprintf("%s: it is for the subjectAltName %s, the request asks for %s", note, cutName(strings.Join(*a.SANs, ", ")), cutName(n.String()))), false
		}
	}
	return gateway.Verdict{}, true
}

// attribute adds what the service says of the request to what others have said. What contradicts them denies.
func (a *webhookAnswer) attribute(v *gateway.Verdict, g *gateway.Grant) (denied gateway.Verdict, ok bool) {
	if len(a.Attributes) == 0 {
		return gateway.Verdict{}, true
	}
	all := maps.Clone(g.Attributes)
	if all == nil {
		all = map[string]string{}
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(a.Attributes)) {
		value := a.Attributes[name]
		if had, twice := all[name]; twice && had != value {
			return gateway.Denied(gateway.NotAuthorized, detailDenied, fmt.Sprintf("%s, attribute %s=%s, of which an earlier stage has found %s", v.Note, name, shown(value), shown(had))), false
		}
		all[name] = value
		words = append(words, name+"="+shown(value))
	}
	if len(all) > maxAnsweredAttributes {
		return gateway.Denied(gateway.NotAuthorized, detailDenied, fmt.Sprintf("%s: %d attributes with those of earlier stages, at most %d are taken", v.Note, len(all), maxAnsweredAttributes)), false
	}
	g.Attributes = all
	v.Note += ", attributes " + strings.Join(words, " ")
	return gateway.Verdict{}, true
}
