package cmp

// nullDN is the Name without RDNs, of who does not know its own (RFC 9810 section 5.1.1: "encoded as 0x3000").
var nullDN = [2]byte{0x30, 0x00}

func isNullDN(name []byte) bool { return len(name) == 0 || len(name) == 2 && [2]byte(name) == nullDN }
