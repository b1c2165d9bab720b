package main

import (
	"net/url"
	"time"
)

// The shapes of the control interface of Go Nex 0.2.7, written down here from its documented wire form. The order of
// the fields is the order on the wire.

type envelope struct {
	Type  string  `json:"type"`
	Data  any     `json:"data,omitempty"`
	Error *string `json:"error,omitempty"`
}

type connection struct {
	URL      string `json:"nats_url"`
	UserJWT  string `json:"nats_user_jwt"`
	UserSeed string `json:"nats_user_seed"`
}

// The members of net/url.URL in the order they had when 0.2.7 was built (Go 1.22); later releases have another.
type location struct {
	Scheme      string
	Opaque      string
	User        *url.Userinfo
	Host        string
	Path        string
	RawPath     string
	OmitHost    bool
	ForceQuery  bool
	RawQuery    string
	Fragment    string
	RawFragment string
}

func asLocation(u *url.URL) *location {
	return &location{u.Scheme, u.Opaque, u.User, u.Host, u.Path, u.RawPath, u.OmitHost, u.ForceQuery, u.RawQuery,
		u.Fragment, u.RawFragment}
}

type deployRequest struct {
	Argv              []string    `json:"argv,omitempty"`
	Description       *string     `json:"description"`
	Type              string      `json:"type"`
	Location          *location   `json:"location"`
	Essential         *bool       `json:"essential"`
	WorkloadJWT       *string     `json:"workload_jwt"`
	Environment       *string     `json:"environment"`
	JsDomain          *string     `json:"jsdomain"`
	SenderPublicKey   *string     `json:"sender_public_key"`
	TargetNode        *string     `json:"target_node"`
	TriggerSubjects   []string    `json:"trigger_subjects,omitempty"`
	TriggerConnection *connection `json:"trigger_connection,omitempty"`
	RetryCount        *uint       `json:"retry_count,omitempty"`
	RetriedAt         *time.Time  `json:"retried_at,omitempty"`
	HostServices      *connection `json:"host_services,omitempty"`
}

// The 0.3.0-rc1 form, of which the names of the members are known and the order is not.
type deployRequestRC1 struct {
	ID                 *string     `json:"id"`
	WorkloadName       *string     `json:"workload_name"`
	Hash               *string     `json:"hash"`
	Description        *string     `json:"description"`
	Type               string      `json:"type"`
	Location           *location   `json:"location"`
	Essential          *bool       `json:"essential"`
	WorkloadJWT        *string     `json:"workload_jwt"`
	Environment        *string     `json:"environment"`
	SenderPublicKey    *string     `json:"sender_public_key"`
	TargetNode         *string     `json:"target_node"`
	HostServicesConfig *connection `json:"host_services_config,omitempty"`
}

type runResponse struct {
	Started bool   `json:"started"`
	ID      string `json:"id"`
	Issuer  string `json:"issuer"`
	Name    string `json:"name"`
}

type stopRequest struct {
	WorkloadID  string `json:"workload_id"`
	WorkloadJWT string `json:"workload_jwt"`
	TargetNode  string `json:"target_node"`
}

type stopRequestRC1 struct {
	NodeID      string `json:"node_id"`
	WorkloadID  string `json:"workload_id"`
	WorkloadJWT string `json:"workload_jwt"`
}

type stopResponse struct {
	Stopped bool   `json:"stopped"`
	ID      string `json:"id"`
	Issuer  string `json:"issuer"`
	Name    string `json:"name"`
}

type lameDuckResponse struct {
	NodeID  string `json:"node_id"`
	Success bool   `json:"success"`
}

type auctionRequest struct {
	Arch          *string           `json:"arch,omitempty"`
	OS            *string           `json:"os,omitempty"`
	Sandboxed     *bool             `json:"sandboxed,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	WorkloadTypes []string          `json:"workload_types,omitempty"`
}

type pingResponse struct {
	NodeID          string            `json:"node_id"`
	Nexus           string            `json:"nexus,omitempty"`
	Version         string            `json:"version"`
	Uptime          string            `json:"uptime"`
	TargetXkey      string            `json:"target_xkey"`
	Tags            map[string]string `json:"tags,omitempty"`
	RunningMachines int               `json:"running_machines"`
}

type memory struct {
	Total     int `json:"total"`
	Free      int `json:"free"`
	Available int `json:"available"`
}

type workload struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Runtime     string `json:"runtime"`
	Type        string `json:"type"`
	Hash        string `json:"hash"`
}

type machine struct {
	ID        string   `json:"id"`
	Healthy   bool     `json:"healthy"`
	Uptime    string   `json:"uptime"`
	Namespace string   `json:"namespace,omitempty"`
	Workload  workload `json:"workload"`
}

type infoResponse struct {
	Version                string            `json:"version"`
	Uptime                 string            `json:"uptime"`
	PublicXKey             string            `json:"public_xkey"`
	Tags                   map[string]string `json:"tags,omitempty"`
	Memory                 *memory           `json:"memory,omitempty"`
	Machines               []machine         `json:"machines"`
	SupportedWorkloadTypes []string          `json:"supported_workload_types,omitempty"`
}

// Data of the events.

type nodeStarted struct {
	Version string            `json:"version"`
	ID      string            `json:"id"`
	Tags    map[string]string `json:"tags,omitempty"`
}

type nodeStopped struct {
	ID       string `json:"id"`
	Graceful bool   `json:"graceful"`
}

type lameDuckEntered struct {
	Version string `json:"version"`
	ID      string `json:"id"`
}

type heartbeat struct {
	Version         string            `json:"version"`
	NodeID          string            `json:"node_id"`
	Nexus           string            `json:"nexus,omitempty"`
	Uptime          string            `json:"uptime"`
	Tags            map[string]string `json:"tags,omitempty"`
	RunningMachines int               `json:"running_machines"`
}

type workloadDeployed struct {
	WorkloadName string `json:"workload_name"`
	Code         int    `json:"code"`
}

type workloadUndeployed struct {
	WorkloadName string `json:"workload_name"`
	Code         int    `json:"code"`
	Message      string `json:"message"`
}

type functionSucceeded struct {
	WorkloadName   string `json:"workload_name"`
	TriggerSubject string `json:"trigger_subject"`
	ElapsedNanos   int64  `json:"elapsed_nanos"`
	Namespace      string `json:"namespace"`
}

type functionFailed struct {
	WorkloadName   string `json:"workload_name"`
	TriggerSubject string `json:"trigger_subject"`
	Namespace      string `json:"namespace"`
	Error          string `json:"error"`
}
