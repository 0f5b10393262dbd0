package est

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// maxCRLs is how many bytes of DER the CRLs of one answer may have together.
const maxCRLs = 16 << 20

// currentCRLs answers RFC 8295 section 4: the CRLs of the endpoint's CA, for everybody ("the server need not authenticate or
// authorize the client").
func (x *exchange) currentCRLs() *wire.Refusal {
	list, err := x.h.gateway.CRLs(x.R.Context(), x.endpoint.Name)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if len(list) == 0 {
		return wire.RefusedAs(http.StatusNotFound, gateway.Unsupported, "the CA of this endpoint publishes no CRL")
	}
	size := 0
	for _, c := range list {
		size += len(c.DER)
	}
	if size > maxCRLs {
		return wire.Refused(gateway.Unsupported, fmt.Sprintf("the CRLs are larger than %d bytes together: fetch them from the URLs that certificates carry", maxCRLs), nil)
	}
	body, err := x.h.crls[x.endpoint.Name].render(list, x.endpoint.Config.Wrap.wraps(x.R.UserAgent()))
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	// RFC 8295 section 4.2: as RFC 7030 section 4.1.3 has it.
	x.W.Header().Set("Content-Transfer-Encoding", "base64")
	x.Write(http.StatusOK, typeCACerts, body)
	return nil
}

// rendered is the last crls-only message of an endpoint, in base64: anybody may ask for it, so it is not made each time.
type rendered struct {
	mu    sync.Mutex
	tags  string // of the CRLs in it
	der   []byte
	forms map[bool][]byte // by whether lines are broken; nobody changes them
}

func (c *rendered) render(list []gateway.CurrentCRL, wrap bool) ([]byte, error) {
	var tags strings.Builder
	crls := make([][]byte, len(list))
	for i, one := range list {
		crls[i] = one.DER
		tags.WriteString(one.Info.Tag + " ")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forms == nil || c.tags != tags.String() {
		der, err := cms.CRLsOnly(crls...)
		if err != nil {
			return nil, err
		}
		c.tags, c.der, c.forms = tags.String(), der, map[bool][]byte{}
	}
	if c.forms[wrap] == nil {
		c.forms[wrap] = encodeBody(c.der, wrap)
	}
	return c.forms[wrap], nil
}

// ownCertificates answers RFC 8295 section 3, for the client that authenticates: with the certificates that are its own. The
// endpoint's query pipeline says who may ask and who that is.
func (x *exchange) ownCertificates() *wire.Refusal {
	if ref := x.authenticate(); ref != nil {
		return ref
	}
	x.Request.Notes = append(x.Request.Notes, x.R.URL.Path+" "+x.over())
	result, err := x.h.gateway.Query(x.R.Context(), x.Request)
	switch {
	case err != nil:
		e, status := gateway.AsError(err), 0
		if e.Reason == gateway.UnknownCert {
			status = http.StatusNotFound
		}
		x.writeError(e, status, "") // the gateway has noted it
		return nil
	case result == nil || result.Kind != gateway.ResultAnswer || len(result.Certificates) == 0:
		return wire.Refused(gateway.Internal, "", errors.New("the gateway answered a query without certificates"))
	}
	return x.writeCertificates(typeCACerts, result.Certificates) // RFC 8295 section 3.2: as RFC 7030 section 4.1.3 has it
}
