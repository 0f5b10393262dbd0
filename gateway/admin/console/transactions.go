package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway/admin"
)

// spans that the overview looks back on.
var spans = []choice{{"day", "24 hours"}, {"week", "7 days"}, {"month", "30 days"}}

type choice struct{ Value, Name string }

type overviewPage struct {
	Status   *admin.Status
	Charts   []chart
	Ending   chart
	Span     string
	Spans    []choice
	Held     int
	MoreHeld bool
	Refused  []admin.Transaction
	Counted  *admin.Overview
}

const shownRefused = 8

// overview is the first page.
func (k *Console) overview(v *visit) error {
	ctx, api := v.r.Context(), v.api()
	span := v.r.URL.Query().Get("span")
	if span == "" {
		span = "day"
	}
	counts, err := api.Overview(ctx, span)
	if err != nil {
		return err
	}
	p := overviewPage{Span: span, Spans: spans, Charts: charts(counts), Ending: endings(counts), Counted: counts}
	if p.Status, err = api.Status(ctx); err != nil {
		return err
	}
	held, err := api.Transactions(ctx, admin.TransactionQuery{States: []string{"held"}})
	if err != nil {
		return err
	}
	p.Held, p.MoreHeld = len(held.Transactions), held.Next != ""
	refused, err := api.Transactions(ctx, admin.TransactionQuery{States: []string{"refused", "failed"}, Strangers: true, Limit: shownRefused})
	if err != nil {
		return err
	}
	p.Refused = refused.Transactions
	return v.show(http.StatusOK, "overview", "Overview", p)
}

type transactionsPage struct {
	List                 []admin.Transaction
	State, Endpoint      string
	Device, ID           string
	Refused              bool
	States               []string
	Next                 string // the address of older ones
	Filtered, BeginsHere bool
}

// rows of a list.
const shownRows = 50

// transactions lists them, by the filters of `muster ls`.
func (k *Console) transactions(v *visit) error {
	q := v.r.URL.Query()
	p := transactionsPage{
		State: q.Get("state"), Endpoint: strings.TrimSpace(q.Get("endpoint")), Device: strings.TrimSpace(q.Get("device")), ID: strings.TrimSpace(q.Get("id")),
		Refused: q.Get("refused") != "", States: admin.States(), BeginsHere: q.Get("before") == "",
	}
	if p.ID != "" {
		v.to("transaction", "id", p.ID)
		return nil
	}
	query := admin.TransactionQuery{Endpoint: p.Endpoint, Before: q.Get("before"), Limit: shownRows, Strangers: p.Refused || p.State == "refused"}
	if p.State != "" {
		query.States = []string{p.State}
	}
	ctx := v.r.Context()
	var err error
	if query.Device, err = k.deviceName(ctx, v, p.Device); err != nil {
		return err
	}
	list, err := v.api().Transactions(ctx, query)
	if err != nil {
		return err
	}
	p.List, p.Filtered = list.Transactions, p.State+p.Endpoint+p.Device != "" || p.Refused
	p.Next = older(v.r.URL, list.Next)
	return v.show(http.StatusOK, "transactions", "Transactions", p)
}

// deviceName is the name of a device that is given by it or an identifier: lists go by names.
func (k *Console) deviceName(ctx context.Context, v *visit, given string) (string, error) {
	if given == "" {
		return "", nil
	}
	d, err := v.api().Device(ctx, given)
	if isStatus(err, http.StatusNotFound) {
		return given, nil
	}
	if err != nil {
		return "", err
	}
	return d.Name, nil
}

// older is a list's address for what comes after it, "" for nothing.
func older(here *url.URL, next string) string {
	if next == "" {
		return ""
	}
	q := here.Query()
	q.Set("before", next)
	return here.Path + "?" + q.Encode()
}

type transactionPage struct {
	X                     *admin.Transaction
	Account               Account
	Said                  string // what was just done
	Approve, Deny, Revoke bool   // what is offered
	Mine                  bool   // has approved already
	Device                bool
}

// said is what a page says of what was just done, by a word in its address.
var said = map[string]string{
	"approved": "Your approval stands.", "denied": "Denied: nothing is issued, and the device is refused when it asks again.",
	"revoked": "Revoked. The CA has been told.", "ordered": "Revoked here. Its CA will be told as soon as it answers.", "already": "It was revoked before: nothing has changed.",
	"alone":    "Revoked here alone: its CA takes no revocations from the gateway. Revoke it at the CA too; until then its CRL and OCSP do not have it.",
	"disabled": "Disabled: it gets no certificates. Those that it has stay good until they are revoked.", "enabled": "Enabled.", "reset": "It has used none of its enrollments now.",
}

// transaction tells all of one.
func (k *Console) transaction(v *visit) error {
	q := v.r.URL.Query()
	id := q.Get("id")
	if id == "" {
		return refuse(http.StatusBadRequest, "an ID says which transaction is meant")
	}
	x, err := v.api().Explain(v.r.Context(), id)
	if err != nil {
		return err
	}
	p := transactionPage{X: x, Account: k.Account(x, v.now), Said: said[q.Get("said")], Device: x.Device != ""}
	if x.State == "held" {
		p.Approve, p.Deny = v.may("POST", "/v1/transactions/:id/approve"), v.may("POST", "/v1/transactions/:id/deny")
		p.Mine = x.Hold != nil && slices.ContainsFunc(x.Hold.Approvals, func(a admin.Approval) bool { return a.By == v.person.Actor })
	}
	p.Revoke = x.Certificate != nil && x.Certificate.RevokedAt == nil && v.may("POST", "/v1/certificates/revoke")
	return v.show(http.StatusOK, "transaction", "Transaction "+short(x.ID), p)
}

// approve approves a held request.
func (k *Console) approve(v *visit) error {
	v.patient(maxWait)
	x, err := v.api().Approve(v.r.Context(), v.r.PostForm.Get("id"), strings.TrimSpace(v.r.PostForm.Get("reason")))
	if err != nil {
		return err
	}
	v.to("transaction", "id", x.ID, "said", "approved")
	return nil
}

// deny ends one. As on the command line it takes a reason.
func (k *Console) deny(v *visit) error {
	reason := strings.TrimSpace(v.r.PostForm.Get("reason"))
	if reason == "" {
		return refuse(http.StatusBadRequest, "denying takes a reason: nothing was done")
	}
	x, err := v.api().Deny(v.r.Context(), v.r.PostForm.Get("id"), reason)
	if err != nil {
		return err
	}
	v.to("transaction", "id", x.ID, "said", "denied")
	return nil
}

type pendingPage struct {
	List []admin.Transaction
	Next string
}

// pending lists what waits for approval.
func (k *Console) pending(v *visit) error {
	list, err := v.api().Transactions(v.r.Context(), admin.TransactionQuery{States: []string{"held"}, Before: v.r.URL.Query().Get("before"), Limit: shownRows})
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "pending", "Pending approvals", pendingPage{list.Transactions, older(v.r.URL, list.Next)})
}
