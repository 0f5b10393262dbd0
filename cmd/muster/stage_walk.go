package main

import (
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// How the checks of a pipeline go through its stages, before these are made. A stage that does not parse is passed over: that is said
// where it is made.

// pipelineNodes is a pipeline as these functions take it.
func pipelineNodes(nodes []yaml.Node) []*yaml.Node {
	list := make([]*yaml.Node, len(nodes))
	for i := range nodes {
		list[i] = &nodes[i]
	}
	return list
}

// branch is the stages of a branch, which is one stage or a list of them.
func branch(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

// everyWay reports whether nothing passes the list but by a stage that the function takes.
func (c *Config) everyWay(list []*yaml.Node, takes func(name string, settings *yaml.Node) bool) bool {
	return slices.ContainsFunc(list, func(n *yaml.Node) bool {
		name, settings, err := stageNode(c.file, n)
		switch {
		case err != nil:
			return false
		case name == "anyOf":
			return !slices.ContainsFunc(settings.Content, func(b *yaml.Node) bool { return !c.everyWay(branch(b), takes) })
		case name == "allOf":
			return c.everyWay(branch(settings), takes)
		}
		return takes(name, settings)
	})
}

// walk calls f for each stage that can let a request pass. listed: an inventory has its say behind it.
func (c *Config) walk(list []*yaml.Node, listed bool, f func(name string, n, settings *yaml.Node, listed bool)) {
	for i, n := range list {
		name, settings, err := stageNode(c.file, n)
		if err != nil { // said already
			continue
		}
		behind := listed || c.inventoried(list[i+1:])
		switch name {
		case "anyOf":
			for _, b := range settings.Content {
				c.walk(branch(b), behind, f)
			}
		case "allOf":
			c.walk(branch(settings), behind, f)
		case "not":
		default:
			f(name, n, settings, behind)
		}
	}
}

// faultAt is fault for a node whose line is known.
func (c *Config) faultAt(n *yaml.Node, path, format string, args ...any) error {
	return &strictyaml.Error{File: c.file, Line: n.Line, Path: path, Message: fmt.Sprintf(format, args...)}
}
