import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.cmp.CMPCertificate;
import org.bouncycastle.asn1.cmp.CMPObjectIdentifiers;
import org.bouncycastle.asn1.cmp.CRLSource;
import org.bouncycastle.asn1.cmp.CRLStatus;
import org.bouncycastle.asn1.cmp.CertReqTemplateContent;
import org.bouncycastle.asn1.cmp.ErrorMsgContent;
import org.bouncycastle.asn1.cmp.GenMsgContent;
import org.bouncycastle.asn1.cmp.GenRepContent;
import org.bouncycastle.asn1.cmp.InfoTypeAndValue;
import org.bouncycastle.asn1.cmp.PKIBody;
import org.bouncycastle.asn1.cmp.RootCaKeyUpdateContent;
import org.bouncycastle.asn1.crmf.AttributeTypeAndValue;
import org.bouncycastle.asn1.crmf.CertTemplate;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.CertificateList;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.GeneralNames;
import org.bouncycastle.cert.X509CRLHolder;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;

/** General messages: the answers are read by BouncyCastle's classes for RFC 9810 section 5.3.19, and the CRLs verified. */
final class General {
    static void ask(Options o) throws Exception {
        Client client = new Client(o);
        List<X509CertificateHolder> cas = new ArrayList<>(client.roots);
        // caCerts first: the rest is verified by them.
        InfoTypeAndValue[] asked = {
            new InfoTypeAndValue(CMPObjectIdentifiers.id_it_caCerts), new InfoTypeAndValue(CMPObjectIdentifiers.id_it_certReqTemplate),
            new InfoTypeAndValue(CMPObjectIdentifiers.it_currentCRL), new InfoTypeAndValue(CMPObjectIdentifiers.it_signKeyPairTypes),
            new InfoTypeAndValue(CMPObjectIdentifiers.it_preferredSymAlg),
            new InfoTypeAndValue(CMPObjectIdentifiers.id_it_rootCaCert, new CMPCertificate(client.roots.get(0).toASN1Structure())),
            new InfoTypeAndValue(CMPObjectIdentifiers.id_it_crlStatusList, new DERSequence(new CRLStatus(
                new CRLSource(null, new GeneralNames(new GeneralName(Files.certificates(o.need("issued")).get(0).getIssuer()))), null))),
            new InfoTypeAndValue(new ASN1ObjectIdentifier("1.3.6.1.4.1.99999.1"))};
        PKIBody body = client.exchange(new PKIBody(PKIBody.TYPE_GEN_MSG, new GenMsgContent(asked)));
        Say.it("body", body.getType());
        if (body.getType() == PKIBody.TYPE_ERROR) {
            Say.status(ErrorMsgContent.getInstance(body.getContent()).getPKIStatusInfo());
            return;
        }
        for (InfoTypeAndValue v : GenRepContent.getInstance(body.getContent()).toInfoTypeAndValueArray()) {
            if (v.getInfoType().equals(CMPObjectIdentifiers.id_it_caCerts)) {
                for (ASN1Encodable e : ASN1Sequence.getInstance(v.getInfoValue())) {
                    X509CertificateHolder c = new X509CertificateHolder(CMPCertificate.getInstance(e).getX509v3PKCert());
                    cas.add(c);
                    Say.it("caCert", c.getSubject());
                }
                for (X509CertificateHolder c : cas) {
                    Files.chain(c, cas, client.roots);
                }
            } else {
                value(v, cas);
            }
        }
    }

    private static void value(InfoTypeAndValue v, List<X509CertificateHolder> cas) throws Exception {
        ASN1ObjectIdentifier type = v.getInfoType();
        if (v.getInfoValue() == null) {
            Say.it("absent", type);
        } else if (type.equals(CMPObjectIdentifiers.id_it_certReqTemplate)) {
            CertReqTemplateContent t = CertReqTemplateContent.getInstance(v.getInfoValue());
            CertTemplate template = t.getCertTemplate();
            Say.must(template.getPublicKey() == null && template.getSerialNumber() == null && template.getSigningAlg() == null, "a template with what must not be in it");
            Say.it("templateSubject", template.getSubject());
            Say.it("templateExtensions", template.getExtensions() == null ? 0 : template.getExtensions().getExtensionOIDs().length);
            for (ASN1Encodable e : t.getKeySpec()) {
                AttributeTypeAndValue spec = AttributeTypeAndValue.getInstance(e);
                if (spec.getType().equals(CMPObjectIdentifiers.id_regCtrl_algId)) {
                    Say.it("keySpec", AlgorithmIdentifier.getInstance(spec.getValue()).getAlgorithm());
                } else {
                    Say.must(spec.getType().equals(CMPObjectIdentifiers.id_regCtrl_rsaKeyLen), "keySpec has " + spec.getType());
                    Say.it("rsaKeyLen", spec.getValue());
                }
            }
        } else if (type.equals(CMPObjectIdentifiers.it_currentCRL)) {
            Say.it("currentCRL", crl(v.getInfoValue(), cas));
        } else if (type.equals(CMPObjectIdentifiers.id_it_crls)) {
            for (ASN1Encodable e : ASN1Sequence.getInstance(v.getInfoValue())) {
                Say.it("crl", crl(e, cas));
            }
        } else if (type.equals(CMPObjectIdentifiers.it_signKeyPairTypes)) {
            for (ASN1Encodable e : ASN1Sequence.getInstance(v.getInfoValue())) {
                Say.it("signKeyPairType", AlgorithmIdentifier.getInstance(e).getAlgorithm());
            }
        } else if (type.equals(CMPObjectIdentifiers.it_preferredSymAlg)) {
            Say.it("preferredSymmAlg", AlgorithmIdentifier.getInstance(v.getInfoValue()).getAlgorithm());
        } else if (type.equals(CMPObjectIdentifiers.id_it_rootCaKeyUpdate)) {
            RootCaKeyUpdateContent u = RootCaKeyUpdateContent.getInstance(v.getInfoValue());
            Say.it("newWithNew", new X509CertificateHolder(u.getNewWithNew().getX509v3PKCert()).getSubject());
            Files.chain(new X509CertificateHolder(u.getNewWithOld().getX509v3PKCert()), Collections.emptyList(), cas.subList(0, 1));
        } else if (type.equals(CMPObjectIdentifiers.it_unsupportedOIDs)) {
            for (ASN1Encodable e : ASN1Sequence.getInstance(v.getInfoValue())) {
                Say.it("unsupported", e);
            }
        } else {
            throw new IllegalStateException("not asked for: " + type);
        }
    }

    private static String crl(ASN1Encodable e, List<X509CertificateHolder> cas) throws Exception {
        X509CRLHolder crl = new X509CRLHolder(CertificateList.getInstance(e));
        for (X509CertificateHolder ca : cas) {
            if (ca.getSubject().equals(crl.getIssuer()) && crl.isSignatureValid(new JcaContentVerifierProviderBuilder().setProvider("BC").build(ca))) {
                return crl.getRevokedCertificates().size() + " revoked, by " + crl.getIssuer();
            }
        }
        throw new IllegalStateException("no CA has signed the CRL of " + crl.getIssuer());
    }
}
