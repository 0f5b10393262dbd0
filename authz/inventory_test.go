package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// fleet is an inventory that holds what was put in, or fails.
type fleet struct {
	devices []*gateway.Device
	err     error
	asked   int
}

func (f *fleet) Device(_ context.Context, kind, value string) (*gateway.Device, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	var found []*gateway.Device
	for _, d := range f.devices {
		hit := (kind == "" || kind == "name") && d.Name == value
		for _, i := range d.Identifiers {
			hit = hit || (kind == "" || kind == i.Kind) && i.Value == value
		}
		if hit {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return nil, gateway.ErrNotFound
	case 1:
		return found[0], nil
	}
	return nil, &gateway.AmbiguousDeviceError{Value: value, Devices: []string{found[0].Name, found[1].Name}}
}

// newFleet has printer-1 with a serial number, a MAC address and the name that a reference or user may be, and others that
// each have something against them.
func newFleet() *fleet {
	return &fleet{devices: []*gateway.Device{
		{Name: "printer-1", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "SN1"}, {Kind: "mac", Value: "00:11:22:33:44:55"}}, Attributes: map[string]string{"site": "north"}},
		{Name: "printer-2", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "SN2"}, {Kind: "imei", Value: "SN1-twin"}}, Disabled: true},
		{Name: "printer-3", NotBefore: noon.Add(time.Second)},
		{Name: "printer-4", NotAfter: noon.Add(-time.Second)},
		{Name: "printer-5", NotBefore: noon, NotAfter: noon},
		{Name: "printer-6", Endpoints: []string{"lab", "office"}},
		{Name: "printer-7", Endpoints: []string{"ran"}},
		{Name: "printer-8", Vendor: "ACME"},
		{Name: "printer-9", Profiles: []string{"scanner", "absent"}},
		{Name: "printer-10", Profiles: []string{"absent"}},
		{Name: "printer-11", Enrollments: 3},
		{Name: "printer-12", Enrollments: gateway.Unlimited},
		{Name: "printer-13", Identifiers: []gateway.DeviceID{{Kind: "imei", Value: "twice"}}},
		{Name: "printer-14", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "twice"}}},
	}}
}

// ran is an endpoint that offers three profiles.
func ran() *gateway.Endpoint {
	e := &gateway.Endpoint{Name: "ran", Profile: &gateway.Profile{Name: "printer", Validity: time.Hour}, Profiles: map[string]*gateway.Profile{}}
	for _, name := range []string{"printer", "scanner", "fax"} {
		e.Profiles[name] = &gateway.Profile{Name: name, Validity: time.Hour}
	}
	e.Profiles["printer"] = e.Profile
	return e
}

func newInventory(t *testing.T, c InventoryConfig, devices Devices) *Inventory {
	t.Helper()
	s, err := NewInventory(c, devices, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInventory(t *testing.T) {
	ca := newCA(t, "Vendor", nil)
	cert := ca.issue(2, "printer-1", func(c *x509.Certificate) {
		c.Subject.SerialNumber = "SN1"
		c.URIs = []*url.URL{{Scheme: "urn", Opaque: "x"}}
	})
	signer := credential(gateway.CredentialSigner, cert)
	key := gateway.Credential{Kind: gateway.CredentialMAC, ID: "printer-1"}
	user := gateway.Credential{Kind: gateway.CredentialPassword, ID: "printer-1"}
	type grant = func(*gateway.Grant)
	type request = func(*gateway.Request)
	with := func(c gateway.Credential) request {
		return func(r *gateway.Request) { r.Credentials = append(r.Credentials, c) }
	}
	accepted := func(c gateway.Credential) grant { return func(g *gateway.Grant) { g.Authenticate(c) } }
	by := func(places ...string) InventoryConfig { return InventoryConfig{By: places} }
	for name, c := range map[string]struct {
		config  InventoryConfig
		device  string // named by an earlier stage
		request request
		grant   grant
		denied  string // what the client is told; "" when allowed
		note    string
		is      string // the device
		profile string // "" for printer
		limit   int64  // of the claim; 0 for none
	}{
		"by its name":             {device: "printer-1", is: "printer-1", limit: 1},
		"by its serial number":    {device: "SN1", is: "printer-1", limit: 1, note: `found by "SN1" (device)`},
		"unknown":                 {device: "SN9", denied: detailUnknown, note: `"SN9" (device) is no device's`},
		"nobody named one":        {denied: "the device is not known", note: "no stage before"},
		"two devices'":            {device: "twice", denied: detailUnknown, note: "printer-13, printer-14"},
		"two devices', of a kind": {config: InventoryConfig{Kind: "serial"}, device: "twice", is: "printer-14", limit: 1},
		"another kind":            {config: InventoryConfig{Kind: "imei"}, device: "SN1", denied: detailUnknown, note: `imei "SN1"`},
		// A challenge and the device's own certificate have the entry's name; what a vendor's certificate names may be any text.
		"another kind, our record":       {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.NameRecorded("printer-1") }, is: "printer-1", limit: 1},
		"the same in a renewal":          {config: InventoryConfig{Kind: "mac"}, grant: func(g *gateway.Grant) { g.NameRecorded("printer-1") }, request: func(r *gateway.Request) { r.Operation = gateway.Renew }, is: "printer-1"},
		"the same, without such a kind":  {config: InventoryConfig{Kind: "imei"}, grant: func(g *gateway.Grant) { g.NameRecorded("printer-1") }, denied: detailUnknown, note: `"printer-1" has no imei`},
		"the same, of no entry":          {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.NameRecorded("SN9") }, denied: detailUnknown, note: `serial "SN9"`},
		"its name, no record of ours":    {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.NameDevice("printer-1") }, denied: detailUnknown, note: `serial "printer-1"`},
		"a record, and a certificate":    {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.NameRecorded("printer-1"); g.NameDevice("printer-1") }, denied: detailUnknown},
		"a certificate, and a record":    {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.NameDevice("printer-1"); g.NameRecorded("printer-1") }, denied: detailUnknown},
		"a record, the place another":    {config: InventoryConfig{Kind: "serial", By: []string{"subject.CN"}}, grant: func(g *gateway.Grant) { g.NameRecorded("printer-1") }, denied: detailUnknown},
		"an entry that was looked up":    {config: InventoryConfig{Kind: "serial"}, grant: func(g *gateway.Grant) { g.Recognise(newFleet().devices[0]) }, is: "printer-1", limit: 1},
		"spelled otherwise":              {config: InventoryConfig{Kind: "mac"}, device: "00-11-22-33-44-55", is: "printer-1", limit: 1},
		"too long":                       {device: string(make([]byte, 300)), denied: detailUnknown},
		"disabled":                       {device: "printer-2", denied: detailMayNot, note: "is disabled"},
		"not yet":                        {device: "printer-3", denied: detailMayNot, note: "begins 2026-03-01T12:00:01Z"},
		"no longer":                      {device: "printer-4", denied: detailMayNot, note: "ended 2026-03-01T11:59:59Z"},
		"just now":                       {device: "printer-5", is: "printer-5", limit: 1},
		"another endpoint":               {device: "printer-6", denied: detailMayNot, note: "lab, office, not at ran"},
		"this endpoint":                  {device: "printer-7", is: "printer-7", limit: 1},
		"no vendor authenticated":        {device: "printer-8", is: "printer-8", limit: 1},
		"its vendor":                     {device: "printer-8", grant: func(g *gateway.Grant) { g.Vendor = "ACME" }, is: "printer-8", limit: 1},
		"another vendor":                 {device: "printer-8", grant: func(g *gateway.Grant) { g.Vendor = "Other" }, denied: detailMayNot, note: `vendor "Other"'s`},
		"a vendor, where none is wanted": {device: "printer-1", grant: func(g *gateway.Grant) { g.Vendor = "Other" }, is: "printer-1", limit: 1},
		"the first profile":              {device: "printer-9", is: "printer-9", profile: "scanner", limit: 1, note: "profile scanner"},
		"another profile asked for":      {device: "printer-9", request: func(r *gateway.Request) { r.Profile = "printer" }, denied: "the device may not have a certificate of this profile", note: `not "printer"`},
		"a profile asked for":            {device: "printer-9", request: func(r *gateway.Request) { r.Profile = "scanner" }, grant: func(g *gateway.Grant) { g.ChooseProfile("scanner") }, is: "printer-9", profile: "scanner", limit: 1},
		"another profile chosen":         {device: "printer-9", grant: func(g *gateway.Grant) { g.ChooseProfile("fax") }, denied: "the device may not have a certificate of this profile", note: `not "fax"`},
		"a profile chosen":               {device: "printer-1", grant: func(g *gateway.Grant) { g.ChooseProfile("fax") }, is: "printer-1", profile: "fax", limit: 1},
		"no profile is offered":          {device: "printer-10", denied: "the device may not have a certificate of this profile", note: "offers none"},
		"its own count":                  {device: "printer-11", is: "printer-11", limit: 3},
		"without count":                  {device: "printer-12", is: "printer-12"},
		"the stage's count":              {config: InventoryConfig{Enrollments: 5}, device: "printer-1", is: "printer-1", limit: 5},
		"the stage has no count":         {config: InventoryConfig{Enrollments: Unlimited}, device: "printer-1", is: "printer-1"},
		"its own count goes first":       {config: InventoryConfig{Enrollments: Unlimited}, device: "printer-11", is: "printer-11", limit: 3},
		"a renewal does not count":       {device: "printer-1", request: func(r *gateway.Request) { r.Operation = gateway.Renew }, is: "printer-1"},
		"a rekey does not count":         {device: "printer-1", request: func(r *gateway.Request) { r.Operation = gateway.Rekey }, is: "printer-1"},
		"a disabled one renews":          {device: "printer-2", request: func(r *gateway.Request) { r.Operation = gateway.Renew }, denied: detailMayNot},
		"attributes":                     {config: InventoryConfig{AttributesRequired: []string{"site"}}, device: "printer-1", is: "printer-1", limit: 1},
		"no attributes":                  {config: InventoryConfig{AttributesRequired: []string{"site"}}, device: "printer-7", denied: detailMayNot, note: "no attribute site"},

		"subject":                            {config: by("subject.CN"), is: "printer-1", limit: 1},
		"subject of another":                 {config: by("subject.CN"), device: "SN2", denied: "the credentials name two devices", note: "none of its names"},
		"subject and device agree":           {config: by("subject.CN"), device: "SN1", is: "printer-1", limit: 1},
		"san":                                {config: by("san.dns"), is: "printer-1", limit: 1},
		"the first place goes first":         {config: by("device", "subject.CN"), device: "SN9", denied: detailUnknown, note: "SN9"},
		"an empty place":                     {config: by("device", "san.uri", "subject.CN"), is: "printer-1", limit: 1},
		"no place":                           {config: by("device", "san.uri"), denied: "the device is not known", note: "device, san.uri"},
		"two values":                         {config: by("subject.OU", "subject.CN"), denied: "the device is not known", note: "2 values"},
		"certificate":                        {config: by("certificate.subject.serialNumber"), request: with(signer), grant: accepted(signer), is: "printer-1", limit: 1},
		"certificate's san":                  {config: by("certificate.san.uri"), request: with(signer), grant: accepted(signer), denied: detailUnknown, note: "urn:x"},
		"a certificate that nobody accepted": {config: by("certificate.subject.serialNumber"), request: with(signer), denied: "the device is not known", note: "accepted"},
		"reference":                          {config: by("reference"), request: with(key), grant: accepted(key), is: "printer-1", limit: 1},
		"a reference of no accepted key":     {config: by("reference"), request: with(key), denied: "the device is not known"},
		"user":                               {config: by("user"), request: with(user), grant: accepted(user), is: "printer-1", limit: 1},
		"a user whom nobody accepted":        {config: by("user"), request: with(user), denied: "the device is not known"},
		"an unprintable user":                {config: by("user"), request: with(gateway.Credential{Kind: gateway.CredentialPassword, ID: "a\n"}), grant: accepted(gateway.Credential{Kind: gateway.CredentialPassword, ID: "a\n"}), denied: "the device is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &gateway.Request{
				Endpoint: "ran", Operation: gateway.Enroll, Subject: subject(t, "CN=printer-1", "OU=a", "OU=b"), Extensions: sanExtension(sans(t, 2, "printer-1")),
			}
			if c.request != nil {
				c.request(r)
			}
			g := gateway.NewGrant(r, ran(), noon)
			g.Device = c.device
			if c.grant != nil {
				c.grant(g)
			}
			s := newInventory(t, c.config, newFleet())
			v := s.Decide(context.Background(), r, g)
			if c.denied != "" {
				expect(t, v, gateway.Deny, gateway.NotAuthorized, c.note)
				if v.Detail != c.denied || len(v.Claims) != 0 {
					t.Errorf("the client is told %q, want %q; claims %v", v.Detail, c.denied, v.Claims)
				}
				return
			}
			expect(t, v, gateway.Allow, "", c.note)
			if c.profile == "" {
				c.profile = "printer"
			}
			if g.Device != c.is || g.Inventory == nil || g.Inventory.Name != c.is || g.Profile != c.profile {
				t.Errorf("device %q, profile %q", g.Device, g.Profile)
			}
			if c.limit == 0 {
				if len(v.Claims) != 0 {
					t.Errorf("claims %+v", v.Claims)
				}
			} else if len(v.Claims) != 1 || v.Claims[0].Key != gateway.EnrollmentsKey(c.is) || v.Claims[0].Limit != c.limit || v.Claims[0].Reason != gateway.NotAuthorized || v.Claims[0].Detail == "" || v.Claims[0].Lost == "" {
				t.Errorf("claims %+v", v.Claims)
			}
			endedDenies(t, s, r)
		})
	}
}

// What cannot be looked up is not allowed.
func TestInventoryCannotAnswer(t *testing.T) {
	r := &gateway.Request{Endpoint: "ran", Operation: gateway.Enroll}
	for _, f := range []Devices{&fleet{err: errors.New("no route to the database")}, nothingFound{}} {
		g := &gateway.Grant{Device: "printer-1"}
		v := newInventory(t, InventoryConfig{}, f).Decide(context.Background(), r, g)
		expect(t, v, gateway.CannotAnswer, gateway.Unavailable, "printer-1")
		if g.Inventory != nil {
			t.Errorf("%+v", g)
		}
	}
}

type nothingFound struct{}

func (nothingFound) Device(context.Context, string, string) (*gateway.Device, error) { return nil, nil }

// For a repeat the device has to be known, by all its names; that its entry has ended since, and what it may have, are not
// asked again. It proves nothing.
func TestInventoryIdentifies(t *testing.T) {
	s := newInventory(t, InventoryConfig{AttributesRequired: []string{"site"}}, newFleet())
	r := &gateway.Request{Endpoint: "ran", Operation: gateway.Enroll, Profile: "fax"}
	for device, allowed := range map[string]bool{"SN1": true, "printer-4": true, "printer-6": true, "printer-10": true, "printer-2": false, "SN9": false, "": false} {
		g := &gateway.Grant{Device: device}
		v, proves := s.Identify(context.Background(), r, g)
		if (v.Decision == gateway.Allow) != allowed || proves {
			t.Errorf("%s: %+v, %v", device, v, proves)
		}
		if device == "SN1" && !g.NameDevice("printer-1") {
			t.Error("the device is not known by its name")
		}
	}
}

// The device of a certificate is the one of the inventory, whatever name it was issued under.
func TestInventoryBehindOwnCertificate(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	cert := ca.issue(2, "printer-1", nil)
	for device, want := range map[string]gateway.Decision{"printer-1": gateway.Allow, "SN1": gateway.Allow, "printer-2": gateway.Deny, "": gateway.Deny} {
		own, err := NewOwnCertificate(OwnCertificateConfig{}, &issued{certs: []*gateway.Certificate{record(cert, device)}}, atNoon)
		if err != nil {
			t.Fatal(err)
		}
		r := renewal(cert)
		g := gateway.NewGrant(r, ran(), noon)
		if v := own.Decide(context.Background(), r, g); v.Decision != gateway.Allow {
			t.Fatalf("%+v", v)
		}
		if v := newInventory(t, InventoryConfig{}, newFleet()).Decide(context.Background(), r, g); v.Decision != want || len(v.Claims) != 0 {
			t.Errorf("%q: %+v", device, v)
		}
		if want == gateway.Allow && g.Device != "printer-1" {
			t.Errorf("%q: device %q", device, g.Device)
		}
	}
}

// Names may be any of the device's.
func TestNamesOfAnInventoryDevice(t *testing.T) {
	names, err := NewNames(NamesConfig{Device: Places{"subject.serialNumber"}})
	if err != nil {
		t.Fatal(err)
	}
	for serial, want := range map[string]gateway.Decision{"SN1": gateway.Allow, "printer-1": gateway.Allow, "SN2": gateway.Deny} {
		r := &gateway.Request{Endpoint: "ran", Operation: gateway.Enroll, Subject: subject(t, "serialNumber="+serial)}
		g := gateway.NewGrant(r, ran(), noon)
		g.Device = "SN1"
		if v := newInventory(t, InventoryConfig{}, newFleet()).Decide(context.Background(), r, g); v.Decision != gateway.Allow {
			t.Fatalf("%+v", v)
		}
		if v := names.Decide(context.Background(), r, g); v.Decision != want {
			t.Errorf("%s: %+v", serial, v)
		}
	}
}

func TestInventoryConfigErrors(t *testing.T) {
	for want, c := range map[string]InventoryConfig{
		`by: "serial" is no place`:                 {By: []string{"serial"}},
		`(did you mean "device"?)`:                 {By: []string{"divice"}},
		`by: "subject.frob": no attribute`:         {By: []string{"subject.frob"}},
		`by: "san.frob": no kind`:                  {By: []string{"certificate.san.frob"}},
		`by: "device" stands twice`:                {By: []string{"device", "device"}},
		`by: "certificate" is no place`:            {By: []string{"certificate"}},
		`by: "device": want subject.ATTRIBUTE`:     {By: []string{"certificate.device"}},
		`kind: "Serial" is no kind of identifier`:  {Kind: "Serial"},
		`attributes-required: "a" is empty, or`:    {AttributesRequired: []string{"a", "a"}},
		`attributes-required: "" is empty, or sta`: {AttributesRequired: []string{""}},
	} {
		_, err := NewInventory(c, newFleet(), atNoon)
		wantError(t, err, want)
	}
	for _, kind := range []string{"name", "serial", "mac", "udid", "imei", "cse-id"} {
		if _, err := NewInventory(InventoryConfig{Kind: kind}, newFleet(), atNoon); err != nil {
			t.Error(err)
		}
	}
	if _, err := NewInventory(InventoryConfig{}, nil, atNoon); err == nil {
		t.Error("made without devices")
	}
	if _, err := NewInventory(InventoryConfig{}, newFleet(), nil); err == nil {
		t.Error("made without a clock")
	}
	for _, c := range []struct {
		by   []string
		want bool
	}{{nil, false}, {[]string{"device", "certificate.subject.CN", "reference", "user"}, false}, {[]string{"device", "subject.CN"}, true}, {[]string{"san.dns"}, true}} {
		if got := (InventoryConfig{By: c.by}).Claimed(); got != c.want {
			t.Errorf("%v: %v", c.by, got)
		}
	}
}
