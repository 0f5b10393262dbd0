package gateway

const OCSPCalls = ocspCalls
