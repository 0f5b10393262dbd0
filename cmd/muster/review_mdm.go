package main

import (
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
)

// profileService checks that the SCEP endpoint to which an endpoint of the profile service leads is there, and takes the challenges
// that it is led to with.
func (f *review) profileService(name string, e *EndpointConfig) {
	if e.Protocol != gateway.MDM {
		return
	}
	path := at("endpoints", name)
	if e.MDM == nil {
		return // the adapter has said what is missing
	}
	query := pipelineNodes(e.Query)
	isInventory := func(name string, _ *yaml.Node) bool { return name == "inventory" }
	if len(query) > 0 && !f.c.everyWay(query, isInventory) {
		f.fail(append(slices.Clone(path), "query"), "there is a way through these stages without `inventory`: nothing would say which device a UDID is. "+
			"Add `inventory: {by: [identifier.udid, device]}` at the end")
	}
	if to := e.MDM.SCEP.Endpoint; len(query) > 0 && to != "" && !f.takesCertificatesOf(to, query) {
		f.fail(append(slices.Clone(path), "query"), "no stage takes the certificates of endpoint %s, with which devices come back for the final profile: "+
			"add `own-certificate: {endpoints: [%s]}` beside `device-certificate`, in an anyOf", to, to)
	}
	path = append(path, "mdm", "scep", "endpoint")
	to := e.MDM.SCEP.Endpoint
	if !known(f, path, "endpoint", to, f.c.Endpoints) {
		return
	}
	scep := f.c.Endpoints[to]
	switch {
	case scep.Protocol != gateway.SCEP:
		f.fail(path, "endpoint %s speaks %s, and devices enrol over SCEP", to, scep.Protocol)
	case !slices.ContainsFunc(scep.Enroll, func(n yaml.Node) bool { return switchedOn(&n, "challenge", "issued") }):
		f.fail(path, "endpoint %s takes no issued challenges, and a device has no other: put `challenge: {issued: true}` into its enroll pipeline", to)
	}
}

// takesCertificatesOf reports whether one of the stages is an own-certificate for what the endpoint issued.
func (f *review) takesCertificatesOf(endpoint string, list []*yaml.Node) (takes bool) {
	f.c.walk(list, false, func(name string, _, settings *yaml.Node, _ bool) {
		var own struct {
			Endpoints []string `yaml:"endpoints"`
		}
		if name == "own-certificate" && settings.Decode(&own) == nil && slices.Contains(own.Endpoints, endpoint) {
			takes = true
		}
	})
	return takes
}
