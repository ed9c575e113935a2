// Creates objects under admission policies, as the API server does, with the plugins that it is made of.
//
//	admission CLUSTER.yaml OBJECTS.yaml
//
// CLUSTER has the policies, their bindings and parameters, and namespaces. For each object of OBJECTS it prints what would be
// stored, the warnings, and the refusal.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/discovery"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi/openapitest"
	"k8s.io/utils/ptr"
)

type outcome struct {
	Object   runtime.Object `json:"object"`
	Warnings []string       `json:"warnings"`
	Refusal  string         `json:"refusal"`
}

func main() {
	// The fake client does not stream its lists.
	os.Setenv("KUBE_FEATURE_WatchListClient", "false")
	outcomes, err := run(os.Args[1], os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(outcomes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(cluster, objects string) ([]outcome, error) {
	known, err := read(cluster)
	if err != nil {
		return nil, err
	}
	requests, err := read(objects)
	if err != nil {
		return nil, err
	}
	server, err := newServer(known)
	if err != nil {
		return nil, err
	}
	var outcomes []outcome
	for _, object := range requests {
		outcomes = append(outcomes, server.create(object))
	}
	return outcomes, nil
}

func read(path string) ([]runtime.Object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		setDefaults(object)
		objects = append(objects, object)
	}
}

// The API server sets these before it stores a policy.
func setDefaults(object runtime.Object) {
	var resources *admissionv1.MatchResources
	switch policy := object.(type) {
	case *admissionv1.MutatingAdmissionPolicy:
		resources = policy.Spec.MatchConstraints
	case *admissionv1.MutatingAdmissionPolicyBinding:
		resources = policy.Spec.MatchResources
	case *admissionv1.ValidatingAdmissionPolicy:
		resources = policy.Spec.MatchConstraints
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		resources = policy.Spec.MatchResources
	}
	if resources == nil {
		return
	}
	if resources.MatchPolicy == nil {
		resources.MatchPolicy = ptr.To(admissionv1.Equivalent)
	}
	if resources.NamespaceSelector == nil {
		resources.NamespaceSelector = &metav1.LabelSelector{}
	}
	if resources.ObjectSelector == nil {
		resources.ObjectSelector = &metav1.LabelSelector{}
	}
}

// The plugins in the order in which the API server runs them.
type server struct {
	mutating   *mutating.Plugin
	validating *validating.Plugin
	interfaces admission.ObjectInterfaces
	mapper     meta.RESTMapper
}

func newServer(known []runtime.Object) (*server, error) {
	first, err := mutating.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	first.SetEnabled(true)
	second, err := validating.NewPlugin(nil)
	if err != nil {
		return nil, err
	}
	client := clientWithSchemas{fake.NewClientset(known...)}
	factory := informers.NewSharedInformerFactory(client, 0)
	mapper := testrestmapper.TestOnlyStaticRESTMapper(scheme.Scheme)
	stop := make(chan struct{})
	plugins := []plugin{first, second}
	for _, plugin := range plugins {
		plugin.SetExternalKubeClientSet(client)
		plugin.SetExternalKubeInformerFactory(factory)
		plugin.SetRESTMapper(mapper)
		plugin.SetDynamicClient(dynamicfake.NewSimpleDynamicClient(scheme.Scheme, known...))
		plugin.SetDrainedNotification(stop)
		plugin.SetUnconditionalAuthorizer(authorizerfactory.NewAlwaysDenyAuthorizer())
		if err := plugin.ValidateInitialization(); err != nil {
			return nil, err
		}
	}
	factory.Start(stop)
	for _, plugin := range plugins {
		if !plugin.WaitForReady() {
			return nil, errors.New("the policies are not ready")
		}
	}
	interfaces := admission.NewObjectInterfacesFromScheme(scheme.Scheme).(*admission.RuntimeObjectInterfaces)
	interfaces.ObjectConvertor = sameVersion{scheme.Scheme}
	return &server{first, second, interfaces, mapper}, nil
}

type plugin interface {
	initializer.WantsExternalKubeClientSet
	initializer.WantsExternalKubeInformerFactory
	initializer.WantsRESTMapper
	initializer.WantsDynamicClient
	initializer.WantsDrainedNotification
	initializer.WantsUnconditionalAuthorizer
	WaitForReady() bool
}

func (s *server) create(object runtime.Object) outcome {
	warnings := &recorder{}
	ctx := warning.WithWarningRecorder(context.Background(), warnings)
	err := s.admit(ctx, object)
	refusal := ""
	if err != nil {
		refusal = err.Error()
	}
	return outcome{object, warnings.texts, refusal}
}

func (s *server) admit(ctx context.Context, object runtime.Object) error {
	kind := object.GetObjectKind().GroupVersionKind()
	mapping, err := s.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	metadata, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	attributes := admission.NewAttributesRecord(object, nil, kind, metadata.GetNamespace(), metadata.GetName(),
		mapping.Resource, "", admission.Create, &metav1.CreateOptions{}, false, &user.DefaultInfo{Name: "test"})
	// The schemas of the kinds are read in the background.
	for err = s.mutating.Admit(ctx, attributes, s.interfaces); apierrors.IsServiceUnavailable(err); {
		time.Sleep(10 * time.Millisecond)
		err = s.mutating.Admit(ctx, attributes, s.interfaces)
	}
	if err != nil {
		return err
	}
	return s.validating.Validate(ctx, attributes, s.interfaces)
}

type recorder struct{ texts []string }

func (r *recorder) AddWarning(_, text string) { r.texts = append(r.texts, text) }

// A fake client has no schemas of its own.
type clientWithSchemas struct{ kubernetes.Interface }

func (c clientWithSchemas) Discovery() discovery.DiscoveryInterfaces {
	return discoveryWithSchemas{c.Interface.Discovery()}
}

type discoveryWithSchemas struct{ discovery.DiscoveryInterfaces }

func (discoveryWithSchemas) OpenAPIV3() openapi.Client { return openapitest.NewEmbeddedFileClient() }

// The API server converts between its internal version and v1; here all is v1.
type sameVersion struct{ *runtime.Scheme }

func (s sameVersion) Convert(in, out, _ any) error {
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(in).Elem())
	return nil
}
