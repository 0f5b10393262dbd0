package console

import (
	"net/http"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

type certificateRow struct {
	admin.Certificate
	Standing string
}

func certificateRows(all []admin.Certificate, now time.Time) (rows []certificateRow) {
	for _, c := range all {
		is := "valid"
		switch {
		case c.RevokedAt != nil:
			is = "revoked"
		case now.After(c.NotAfter):
			is = "expired"
		case now.Before(c.NotBefore):
			is = "not yet"
		}
		rows = append(rows, certificateRow{c, is})
	}
	return rows
}

type certificatesPage struct {
	List              []certificateRow
	Device, Requester string
	Valid             bool
	Next              string
	Revoke, Filtered  bool
}

// certificates lists them, by the filters of `muster ls certificates`.
func (k *Console) certificates(v *visit) error {
	q := v.r.URL.Query()
	p := certificatesPage{
		Device: strings.TrimSpace(q.Get("device")), Requester: strings.TrimSpace(q.Get("requester")), Valid: q.Get("valid") != "",
		Revoke: v.may("POST", "/v1/certificates/revoke"),
	}
	query := admin.CertificateQuery{Requester: p.Requester, Valid: p.Valid, Before: q.Get("before"), Limit: shownRows}
	ctx := v.r.Context()
	var err error
	if query.Device, err = k.deviceName(ctx, v, p.Device); err != nil {
		return err
	}
	list, err := v.api().Certificates(ctx, query)
	if err != nil {
		return err
	}
	p.List, p.Next, p.Filtered = certificateRows(list.Certificates, v.now), older(v.r.URL, list.Next), p.Device+p.Requester != "" || p.Valid
	return v.show(http.StatusOK, "certificates", "Certificates", p)
}

// reasons for which a certificate can be revoked, by RFC 5280's names. The API judges them.
var reasons = []choice{
	{"unspecified", "unspecified"}, {"keyCompromise", "keyCompromise: somebody else may have the key"}, {"cACompromise", "cACompromise: the CA's key"},
	{"affiliationChanged", "affiliationChanged: its name is no longer right"}, {"superseded", "superseded: there is another in its place"},
	{"cessationOfOperation", "cessationOfOperation: the device is out of use"}, {"privilegeWithdrawn", "privilegeWithdrawn: it may no longer"},
}

type revokePage struct {
	X       *admin.Transaction
	C       certificateRow
	Reasons []choice
}

// showRevoke asks once more which certificate is to be revoked, and why.
func (k *Console) showRevoke(v *visit) error {
	x, err := v.api().Explain(v.r.Context(), v.r.URL.Query().Get("transaction"))
	if err != nil {
		return err
	}
	if x.Certificate == nil {
		return refuse(http.StatusNotFound, "transaction %s has no certificate: it is %s", x.ID, x.State)
	}
	return v.show(http.StatusOK, "revoke", "Revoke a certificate", revokePage{x, certificateRows([]admin.Certificate{*x.Certificate}, v.now)[0], reasons})
}

// revoke revokes it.
func (k *Console) revoke(v *visit) error {
	id := v.r.PostForm.Get("transaction")
	if id == "" {
		return refuse(http.StatusBadRequest, "a transaction says which certificate is meant")
	}
	v.patient(maxWait)
	done, err := v.api().Revoke(v.r.Context(), admin.RevokeQuery{Transaction: id}, v.r.PostForm.Get("reason"), strings.TrimSpace(v.r.PostForm.Get("note")))
	if err != nil {
		return err
	}
	word := "ordered"
	for _, one := range done.Revoked {
		switch {
		case one.Already:
			word = "already"
		case one.Told:
			word = "revoked"
		case one.Alone:
			word = "alone"
		}
		id = one.Certificate.Transaction
	}
	v.to("transaction", "id", id, "said", word)
	return nil
}

type casPage struct {
	List     []admin.CA
	Backends []admin.Backend
}

// cas shows the CAs with their generations, and whether each is asked.
func (k *Console) cas(v *visit) error {
	list, err := v.api().CAs(v.r.Context())
	if err != nil {
		return err
	}
	status, err := v.api().Status(v.r.Context())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "cas", "CAs", casPage{list.CAs, status.Backends})
}

type configurationPage struct {
	Status    *admin.Status
	Pipelines []admin.PipelineDrawing
}

// configuration shows what runs. Files are not shown: they may have secrets in them.
func (k *Console) configuration(v *visit) error {
	list, err := v.api().Pipelines(v.r.Context())
	if err != nil {
		return err
	}
	status, err := v.api().Status(v.r.Context())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "configuration", "Configuration", configurationPage{status, list.Pipelines})
}
