package main

import (
	"errors"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/est"
)

// checkMEFSCEP refuses a pipeline that `scep: {type: onem2m-mef}` rules out (oneM2M TS-0003 clause 8.3.6.3): a way to a certificate on
// which it is not known which one of the registered clients asks, or on which its identifier is not held against its
// registration, and renewals by anything but the certificate.
func (c *Config) checkMEFSCEP(path []string, op gateway.Operation, nodes []yaml.Node, e *EndpointConfig) error {
	if !mefBySCEP(e) {
		return nil
	}
	list := pipelineNodes(nodes)
	errs := append(c.checkMEFWays(path, op, e, list), c.checkRegistered(path, op, "onem2m-mef", list))
	if op != gateway.Enroll {
		return errors.Join(errs...)
	}
	known := c.everyWay(list, func(name string, settings *yaml.Node) bool {
		switch name {
		case "vendor-ca":
			return c.names(name, settings)
		case "challenge":
			var challenge authz.ChallengeConfig
			return strictyaml.DecodeNode(c.file, settings, &challenge) == nil && challenge.Issued && len(challenge.Secrets) == 0 && challenge.File == "" && challenge.Webhook == nil
		case "device-password":
			var password authz.DevicePasswordConfig
			return strictyaml.DecodeNode(c.file, settings, &password) == nil && (password.Uses == 0 || password.Uses == 1)
		}
		return false
	})
	if !known {
		errs = append(errs, c.fault(path, "type: onem2m-mef: each client shows who it is: by its vendor's certificate (`vendor-ca` with a `serial`), or by a secret that is good once and is one "+
			"device's (`challenge: {issued: true}`, `device-password` with `uses: 1`). One of these has to be on every way through these stages; a challenge that many know is not enough"))
	}
	return errors.Join(errs...)
}

// checkRegistered wants the identifier of each certificate to be held against the client's registration, and a certificate
// renewed by itself alone.
func (c *Config) checkRegistered(path []string, op gateway.Operation, kind string, list []*yaml.Node) error {
	if op != gateway.Enroll && op != gateway.Renew && op != gateway.Rekey {
		return nil
	}
	var errs []error
	if !c.everyWay(list, func(name string, _ *yaml.Node) bool { return name == "registration" }) {
		errs = append(errs, c.fault(path, "type: %s: a certificate names what is registered for the client: `registration: {}` has to be on every way through these stages", kind))
	}
	if op != gateway.Enroll && !c.everyWay(list, func(name string, settings *yaml.Node) bool {
		var own authz.OwnCertificateConfig
		return name == "own-certificate" && strictyaml.DecodeNode(c.file, settings, &own) == nil && !own.ByPassword()
	}) {
		errs = append(errs, c.fault(path, "type: %s: a certificate is renewed by itself alone: `own-certificate: {}`, without the kind password, has to be on every way through these stages", kind))
	}
	return errors.Join(errs...)
}

// checkMEFPassword refuses a pipeline that `est: {type: onem2m-mef-password}` rules out: a first certificate is asked for by the password
// of one device, which its entry in the inventory registers an identifier for, and renewed by itself.
func (c *Config) checkMEFPassword(path []string, op gateway.Operation, nodes []yaml.Node, e *EndpointConfig) error {
	if !mefByPassword(e) {
		return nil
	}
	list := pipelineNodes(nodes)
	errs := append(c.checkMEFWays(path, op, e, list), c.checkRegistered(path, op, string(est.TypeMEFPassword), list))
	if op != gateway.Enroll {
		return errors.Join(errs...)
	}
	inventoried := c.everyWay(list, func(name string, settings *yaml.Node) bool {
		var inventory authz.InventoryConfig
		return name == "device-password" || name == "inventory" && strictyaml.DecodeNode(c.file, settings, &inventory) == nil && !inventory.Claimed()
	})
	compared := c.everyWay(list, func(name string, _ *yaml.Node) bool { return name == "device-password" || name == "password" })
	if !compared || !inventoried {
		errs = append(errs, c.fault(path, "type: %s: each client logs in with the password of its own entry in the inventory, or as a user that the inventory knows: `device-password: {}`, or "+
			"`password: {...}` and then `inventory: {by: [user]}`, has to be on every way through these stages", string(est.TypeMEFPassword)))
	}
	c.walk(list, false, func(name string, n, _ *yaml.Node, _ bool) {
		switch name {
		case "client-certificate", "vendor-ca":
			errs = append(errs, c.faultAt(n, strings.Join(path, "."), "type: %s: clients have no certificate when they come for the first: leave the stage %s out, or serve those that have one at an endpoint of type onem2m-mef",
				string(est.TypeMEFPassword), name))
		}
	})
	return errors.Join(errs...)
}
