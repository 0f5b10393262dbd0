package authz

import (
	"context"
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// refusesCertificate are the reasons of certificateJudge.
var refusesCertificate = []gateway.Reason{gateway.Unauthenticated, gateway.Untrusted, gateway.Revoked, gateway.NotAuthorized}

// trusted says where CAs come from.
func trusted(dir string, files []string) string {
	var from []string
	if dir != "" {
		from = append(from, "the folder "+dir)
	}
	from = append(from, files...)
	return some(from, "and")
}

// checksOfChain are the lines that stages which judge certificates have in common.
func checksOfChain(crls []string, unknown bool, sha1 bool, blocklist string) []string {
	return lines(
		when(len(crls) > 0, "not on "+some(crls, "or")),
		when(unknown, "where revocation cannot be told, it passes"),
		when(sha1, "SHA-1 signatures in the chain pass"),
		when(blocklist != "", "no key of the block list "+blocklist),
	)
}

// Describe is gateway.Describer.
func (s *ClientCertificate) Describe() gateway.Description {
	c := s.config
	checks := []string{
		"a certificate under the CAs of " + trusted(c.Dir, c.CAs),
		"looks at " + wordsOfKinds(s.kinds),
	}
	checks = append(checks, lines(
		when(c.Device != "", "the device: "+c.Device+" of the certificate"),
		when(len(c.Purposes) > 0, "for "+some(c.Purposes, "or")),
		when(c.Grace > 0, "also up to "+c.Grace.String()+" after its end"),
	)...)
	return gateway.Description{Checks: append(checks, checksOfChain(c.CRLs, c.AllowUnknownRevocation, c.AllowSHA1, c.Blocklist)...), Refuses: refusesCertificate}
}

// Describe is gateway.Describer.
func (s *VendorCA) Describe() gateway.Description {
	c := s.config
	whose := "a vendor's certificate"
	if c.Vendor != "" {
		whose = "a certificate of " + c.Vendor
	}
	checks := []string{whose + ", under the CAs of " + trusted(c.Dir, c.CAs), "looks at " + wordsOfKinds(s.kinds)}
	if c.Serial != "" {
		checks = append(checks, "the device: "+c.Serial+" of the certificate")
	}
	if s.list != nil {
		line := "one of the serial numbers in " + c.List
		if look, err := s.list.look(context.Background()); err == nil && look != nil {
			line = fmt.Sprintf("one of the %s in %s", counted(len(look.serials), "serial number"), c.List)
		}
		checks = append(checks, line)
	}
	d := gateway.Description{Refuses: refusesCertificate}
	if s.device != nil && s.enrollments != Unlimited {
		checks = append(checks, s.enrollments.words("first certificate")+" for each serial number")
		d.Uses = "one enrollment of the serial number, by a first certificate"
	}
	d.Checks = append(checks, checksOfChain(c.CRLs, c.AllowUnknownRevocation, c.AllowSHA1, c.Blocklist)...)
	return d
}

// Describe is gateway.Describer.
func (s *DeviceCertificate) Describe() gateway.Description {
	return gateway.Description{
		Checks:  []string{"a message signed with the certificate that the device's maker put into it", "which device it is, it does not say"},
		Refuses: []gateway.Reason{gateway.Unauthenticated},
	}
}

// Describe is gateway.Describer.
func (s *RA) Describe() gateway.Description {
	c := s.config
	var who []string
	if len(c.Certificates) > 0 {
		who = append(who, some(c.Certificates, "and"))
	}
	if len(c.CAs) > 0 {
		under := "under " + some(c.CAs, "and") + " for " + some(c.Purposes, "or")
		if len(c.Names) > 0 {
			under += ", named " + some(c.Names, "or")
		}
		who = append(who, under)
	}
	gist := "a registration authority asks in the device's place: "
	if s.nested {
		gist = "passed on by a registration authority: "
	}
	return gateway.Description{
		Checks:  append([]string{gist + some(who, "or"), "looks at " + wordsOfKinds(s.kinds)}, checksOfChain(c.CRLs, c.AllowUnknownRevocation, false, c.Blocklist)...),
		Refuses: refusesCertificate,
	}
}

// Describe is gateway.Describer.
func (s *OwnCertificate) Describe() gateway.Description {
	c := s.config
	at := "at this endpoint"
	if len(c.Endpoints) > 0 {
		at = "at " + some(c.Endpoints, "or")
	}
	once := map[Once]string{
		"": "renewed until the device has confirmed a successor", onceConfirmed: "renewed until the device has confirmed a successor",
		onceAsked: "renewed one time", onceNever: "renewed until it ends",
	}[c.Once]
	return gateway.Description{
		Checks: lines(
			"a valid certificate that was issued "+at+", and its own names",
			"looks at "+wordsOfKinds(s.kinds),
			once,
			when(!c.Window.IsZero(), "not before the last "+c.Window.String()+" of its validity"),
			when(c.Grace > 0, "also up to "+c.Grace.String()+" after its end"),
			when(len(c.Purposes) > 0, "for "+some(c.Purposes, "or")),
			when(c.ChangeNames, "other names may be asked for"),
			when(c.Revoke == revokeDevice, "revokes the device's other certificates, too"),
		),
		Refuses: []gateway.Reason{gateway.Unauthenticated, gateway.Untrusted, gateway.Revoked, gateway.UnknownCert, gateway.NotAuthorized, gateway.BadTemplate},
	}
}
