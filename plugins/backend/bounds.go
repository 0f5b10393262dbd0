package backend

// The bounds of what crosses the contract, in bytes unless said otherwise. Both sides keep them: an answer beyond
// is refused, whatever it says.
const (
	MaxMessage     = 8 << 20  // one gRPC message
	Window         = 1 << 20  // of HTTP/2 flow control, both ways: what is sent before the other side reads
	MaxConfig      = 1 << 20  // Validate, Configure
	MaxCertificate = 64 << 10 // DER
	MaxChain       = 10       // certificates
	MaxCAs         = 16       // of one backend
	MaxRollover    = 64       // certificates and CRLs of one CA: CA.Rollover, CA.CRLs
	MaxShards      = 1024     // of one CA: CA.Shards
	MaxURIs        = 8        // of one shard
	MaxURI         = 1 << 10
	MaxName        = 256 // any name: an ID, a CA, a version, a device
	MaxTicket      = 1 << 10
	MaxContent     = 1 << 20  // SignCMS and Exchange, both ways
	MaxCRL         = 64 << 20 // in all
	MaxOCSPRequest = 4 << 10  // OCSP: one of a single certificate has 70 to 120
	MaxOCSP        = 64 << 10 // OCSP: the answer
	maxCRLChunk    = 1 << 20
	maxErrorText   = 1 << 10
	maxExtensions  = 64 // of a template; as many extended key usages
)
