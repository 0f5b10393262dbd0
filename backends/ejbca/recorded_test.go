package ejbca

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// exchange is one request to EJBCA's REST API and its answer, as the sources named in docs/backends/ejbca.md have them. None was taken off a running
// server. In the texts DN is the CA's name escaped for a path, CSR, LEAF, TWICE (base64 of base64), CHAIN and PASSWORD stand for what differs each time.
type exchange struct {
	asks   string // method, path and query, and the body
	status int
	answer string
}

// As EnrollCertificateRestRequest, CertificateRestResponse (DER), SearchCertificatesRestRequest, SearchCertificatesRestResponse, CaInfosRestResponse and
// RevokeStatusRestResponse name their fields, in snake case (ObjectMapperContextResolver).
var (
	listed = exchange{`GET /ejbca/ejbca-rest-api/v1/ca`, 200,
		`{"certificate_authorities":[{"id":12345678,"name":"Devices CA","subject_dn":"CN=Devices,O=Test/Lab,C=SE","issuer_dn":"CN=Root","expiration_date":"2038-01-19T03:14:07Z","external":false}]}`}
	downloaded = exchange{`GET /ejbca/ejbca-rest-api/v1/ca/DN/certificate/download`, 200, `CHAIN`}
	enrolled   = exchange{`POST /ejbca/ejbca-rest-api/v1/certificate/pkcs10enroll {"certificate_request":"CSR","certificate_profile_name":"Device","end_entity_profile_name":"Muster","certificate_authority_name":"Devices CA","username":"id-one","password":"PASSWORD","include_chain":false,"response_format":"DER"}`,
		201, `{"certificate":"LEAF","serial_number":"1234567890ABCDEF","response_format":"DER"}`}
	refused  = exchange{enrolled.asks, 400, `{"error_code":400,"error_message":"User password may not be null."}`}
	nameless = exchange{enrolled.asks, 400, `{"error_code":400,"error_message":null}`} // an exception whose cause has no text: NullPointerException
	database = exchange{enrolled.asks, 400, `{"error_code":400,"error_message":"could not execute statement"}`}
	denied   = exchange{enrolled.asks, 403, `{"error_code":403,"error_message":"Administrator not authorized to resource /ca/12345678."}`}
	found    = exchange{`POST /ejbca/ejbca-rest-api/v1/certificate/search {"max_number_of_results":10,"criteria":[{"property":"QUERY","value":"id-one","operation":"EQUAL"},{"property":"CA","value":"Devices CA","operation":"EQUAL"},{"property":"END_ENTITY_PROFILE","value":"Muster","operation":"EQUAL"},{"property":"CERTIFICATE_PROFILE","value":"Device","operation":"EQUAL"}]}`,
		200, `{"certificates":[{"certificate":"TWICE","serial_number":"1234567890ABCDEF","response_format":"DER","certificate_profile":"Device","end_entity_profile":"Muster"}],"more_results":false}`}
	empty    = exchange{found.asks, 200, `{"certificates":[],"more_results":false}`}
	timedOut = exchange{found.asks, 200, `{"certificates":[],"more_results":true}`}
	foreign  = exchange{found.asks, 200, `{}`} // of something between that is not EJBCA
	revoked  = exchange{`PUT /ejbca/ejbca-rest-api/v1/certificate/DN/1f/revoke?reason=KEY_COMPROMISE`, 200,
		`{"issuer_dn":"CN=Devices,O=Test/Lab,C=SE","serial_number":"1f","revocation_reason":"KEY_COMPROMISE","revocation_date":"2026-06-15T14:07:09Z","message":"Successfully revoked","revoked":true}`}
	before = exchange{revoked.asks, 409, `{"error_code":409,"error_message":"Certificate with issuer: CN=Devices,O=Test/Lab,C=SE and serial number: 1f has previously been revoked. Revocation reason could not be changed or was not allowed."}`}
	nobody = exchange{revoked.asks, 404, `{"error_code":404,"error_message":"Could not find end entity certificate with issuerDN: CN=Devices,O=Test/Lab,C=SE and serial number: 1f"}`}
	waits  = exchange{revoked.asks, 202, `{"status_code":202,"info_message":"The request has been added for approval.","request_id":1234567}`}
	noCRL  = exchange{`GET /ejbca/ejbca-rest-api/v1/ca/DN/getLatestCrl?crlPartitionIndex=0&deltaCrl=false`, 200, `{"crl":null,"response_format":"DER"}`}
)

// play answers with the exchanges, in their order, and fails for any other request.
func play(t *testing.T, r *backend.IssueRequest, exchanges ...exchange) (c *CA, done func()) {
	t.Helper()
	f := newFakeCA(t) // for its keys
	f.token = "secret-word"
	leaf := base64.StdEncoding.EncodeToString(f.issue(parsedCSR(r), "", "", "", "").der)
	var chain strings.Builder
	recorder := httptest.NewRecorder()
	f.ServeHTTP(recorder, func() *http.Request {
		q := httptest.NewRequest("GET", "https://h/ejbca/ejbca-rest-api/v1/ca/"+url.PathEscape(authorityDN)+"/certificate/download", nil)
		q.Header.Set("Authorization", "Bearer secret-word")
		return q
	}())
	chain.WriteString(recorder.Body.String())
	fill := strings.NewReplacer("DN/", url.PathEscape(authorityDN)+"/", "CSR", base64.StdEncoding.EncodeToString(r.CSR), "LEAF", leaf, "TWICE", base64.StdEncoding.EncodeToString([]byte(leaf)), "CHAIN", chain.String())
	n := 0
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body := string(must(io.ReadAll(q.Body)))
		if _, rest, ok := strings.Cut(body, `"password":"`); ok {
			body = strings.Replace(body, rest[:strings.Index(rest, `"`)], "PASSWORD", 1)
		}
		asks := strings.TrimSpace(q.Method + " " + q.RequestURI + " " + body)
		if n == len(exchanges) || asks != fill.Replace(exchanges[n].asks) {
			t.Errorf("request %d is\n%s", n, asks)
			w.WriteHeader(500)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(exchanges[n].status)
		fmt.Fprint(w, fill.Replace(exchanges[n].answer))
		n++
	})
	return f.configured(t), func() {
		t.Helper()
		if n != len(exchanges) {
			t.Errorf("%d requests of %d", n, len(exchanges))
		}
	}
}

func TestRecordedEnrollment(t *testing.T) {
	for name, c := range map[string]struct {
		exchanges []exchange
		want      codes.Code
	}{
		"enrolled":              {[]exchange{listed, downloaded, enrolled, found}, codes.OK},
		"refused":               {[]exchange{listed, downloaded, refused, empty}, codes.InvalidArgument},
		"refused, and issued":   {[]exchange{listed, downloaded, refused, found}, codes.OK},
		"refused, and not said": {[]exchange{listed, downloaded, refused, timedOut}, codes.Unavailable},
		"failed without a word": {[]exchange{listed, downloaded, nameless, empty}, codes.Unavailable},
		"failed in its store":   {[]exchange{listed, downloaded, database, empty}, codes.Unavailable},
		"denied":                {[]exchange{listed, downloaded, denied}, codes.PermissionDenied},
	} {
		r := request("one")
		ca, done := play(t, r, c.exchanges...)
		if got, err := ca.Issue(t.Context(), r); status.Code(err) != c.want || err == nil && len(got.Chain) != 2 {
			t.Errorf("%s: %v", name, err)
		}
		done()
	}
}

func TestRecordedLookup(t *testing.T) {
	for name, c := range map[string]struct {
		exchanges []exchange
		want      string
	}{
		"found":     {[]exchange{found, listed, downloaded}, "issued"},
		"empty":     {[]exchange{empty}, "unknown"},
		"timed out": {[]exchange{timedOut}, "Unavailable"},
		"foreign":   {[]exchange{foreign}, "Unavailable"},
	} {
		r := request("one")
		r.Asked = time.Now()
		ca, done := play(t, r, c.exchanges...)
		o, err := ca.Lookup(t.Context(), r)
		if err == nil && string(o.State) != c.want || err != nil && status.Code(err).String() != c.want {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
		done()
	}
}

func TestRecordedRevocation(t *testing.T) {
	for name, c := range map[string]struct {
		last exchange
		want codes.Code
	}{"revoked": {revoked, codes.OK}, "revoked before": {before, codes.OK}, "unknown": {nobody, codes.NotFound}, "to be approved": {waits, codes.Unavailable}} {
		r := request("one")
		ca, done := play(t, r, listed, downloaded, c.last)
		known := must(ca.running.Load().authority(t.Context(), true))
		if err := ca.Revoke(t.Context(), &backend.RevokeRequest{Issuer: known.chain[0].RawSubject, Serial: []byte{0x1f}, Reason: 1}); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		done()
	}
	ca, done := play(t, request("one"), listed, downloaded, noCRL)
	if err := ca.CRL(t.Context(), "", io.Discard); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	done()
}
