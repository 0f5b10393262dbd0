package admin

import (
	"errors"

	"github.com/muster-pki/muster/gateway/pkix"
)

// canonicalName turns a name as people write it ("cn=alice, O=Ops", RFC 4514) into the form of pkix.FormatName, by which
// names are compared.
func canonicalName(s string) (string, error) {
	if s == "" {
		return "", errors.New("the name is empty")
	}
	der, err := pkix.ParseRFC4514(s)
	if err != nil {
		return "", err
	}
	return pkix.FormatName(der), nil
}
