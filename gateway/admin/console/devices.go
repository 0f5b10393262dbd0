package console

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// maxWait is more than the API takes for a call that asks a CA.
const maxWait = 7 * time.Minute

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*admin.Error](err)
	return ok && e.Status == status
}

type devicesPage struct {
	List                  []deviceRow
	Prefix, Vendor, State string
	Find                  string
	Next                  string
	Import, Filtered      bool
}

type deviceRow struct {
	admin.Device
	Standing string
}

// standingOf says whether an entry is good, as `muster device ls` does.
func standingOf(d *admin.Device, now time.Time) string {
	switch {
	case d.Disabled:
		return "disabled"
	case d.NotBefore != nil && now.Before(*d.NotBefore):
		return "not yet"
	case d.NotAfter != nil && now.After(*d.NotAfter):
		return "expired"
	}
	return "good"
}

// devices lists the inventory.
func (k *Console) devices(v *visit) error {
	q := v.r.URL.Query()
	p := devicesPage{Prefix: strings.TrimSpace(q.Get("prefix")), Vendor: strings.TrimSpace(q.Get("vendor")), State: q.Get("state"), Import: v.may("POST", "/v1/devices/import")}
	if find := strings.TrimSpace(q.Get("find")); find != "" {
		v.to("device", "name", find)
		return nil
	}
	query := admin.DeviceQuery{Prefix: p.Prefix, Vendor: p.Vendor, After: q.Get("after"), Limit: shownRows}
	if p.State == "disabled" || p.State == "enabled" {
		disabled := p.State == "disabled"
		query.Disabled = &disabled
	}
	list, err := v.api().Devices(v.r.Context(), query)
	if err != nil {
		return err
	}
	for i := range list.Devices {
		p.List = append(p.List, deviceRow{list.Devices[i], standingOf(&list.Devices[i], v.now)})
	}
	p.Filtered = p.Prefix+p.Vendor+p.State != ""
	if list.Next != "" {
		q.Set("after", list.Next)
		p.Next = v.r.URL.Path + "?" + q.Encode()
	}
	return v.show(http.StatusOK, "devices", "Devices", p)
}

type devicePage struct {
	Name         string
	Entry        *deviceRow // nil: it is not in the inventory
	Certificates []certificateRow
	Transactions []admin.Transaction
	Said         string
	Change       bool
	Revoke       bool
}

// device shows one with its history.
func (k *Console) device(v *visit) error {
	ctx, api := v.r.Context(), v.api()
	q := v.r.URL.Query()
	p := devicePage{Name: q.Get("name"), Said: said[q.Get("said")], Change: v.may("POST", "/v1/devices/:name/state"), Revoke: v.may("POST", "/v1/certificates/revoke")}
	if p.Name == "" {
		return refuse(http.StatusBadRequest, "a name says which device is meant")
	}
	d, absent := api.Device(ctx, p.Name)
	switch {
	case absent == nil:
		p.Name, p.Entry = d.Name, &deviceRow{*d, standingOf(d, v.now)}
	case !isStatus(absent, http.StatusNotFound):
		return absent
	}
	certs, err := api.Certificates(ctx, admin.CertificateQuery{Device: p.Name, Limit: 20})
	if err != nil {
		return err
	}
	transactions, err := api.Transactions(ctx, admin.TransactionQuery{Device: p.Name, Limit: 15})
	if err != nil {
		return err
	}
	p.Certificates, p.Transactions = certificateRows(certs.Certificates, v.now), transactions.Transactions
	if p.Entry == nil && len(p.Certificates)+len(p.Transactions) == 0 {
		return absent
	}
	return v.show(http.StatusOK, "device", "Device "+k.Plain(p.Name), p)
}

// deviceState disables one, or takes that back.
func (k *Console) deviceState(v *visit) error {
	disabled := v.r.PostForm.Get("disabled") == "true"
	d, err := v.api().SetDeviceDisabled(v.r.Context(), v.r.PostForm.Get("name"), disabled)
	if err != nil {
		return err
	}
	v.to("device", "name", d.Name, "said", map[bool]string{true: "disabled", false: "enabled"}[disabled])
	return nil
}

// deviceReset lets one enrol anew.
func (k *Console) deviceReset(v *visit) error {
	d, err := v.api().ResetDevice(v.r.Context(), v.r.PostForm.Get("name"))
	if err != nil {
		return err
	}
	v.to("device", "name", d.Name, "said", "reset")
	return nil
}
